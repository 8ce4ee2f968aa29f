"""The evaluate command: models in all their forms, what it writes and says, one line for every mistake."""

import json
import re

import numpy as np
import pytest

from fdiv_jax import cli, load_pipeline
from fdiv_jax.checkpoints import save_delta, save_lora
from fdiv_jax.nn.lora import extract_lora
from fdiv_jax.unlearning import Network, UnlearningConfig
from tests.tiny import tiny_pipeline

PROTOCOL = """
steps: 2
guidance: 2
metrics: [pixel_change]
seeds: [0, 1, 2]
target: {concept: sneaker, kind: item, prompts: ["a sneaker, photo style"]}
retained: {concept: shirt, kind: item, prompts: ["a shirt, photo style"]}
"""


def changed():
    """The base with other values in one of the kernels that unlearning changes."""
    base = tiny_pipeline()
    from flax import nnx

    graph, state = nnx.split(base.unet)
    kernel = next(
        v for path, v in nnx.to_flat_state(state) if "attn2" in path and path[-2:] == ("to_k", "kernel")
    )
    rank_one = np.outer(np.linspace(-1, 1, kernel.shape[0]), np.ones(kernel.shape[1]))
    kernel[...] = kernel[...] + rank_one.astype(np.float32)
    return base.replace(unet=nnx.merge(graph, state))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, a run directory, a delta and a LoRA of the same change, and a protocol."""
    place = tmp_path_factory.mktemp("evaluate")
    base, other = tiny_pipeline(), changed()
    base.save(place / "base")
    run = place / "runs" / "sneaker"
    run.mkdir(parents=True)
    other.save(run / "pipeline")
    config = UnlearningConfig(target="sneaker", anchor="near").to_dict()
    (run / "config.json").write_text(json.dumps({"config": config, "resolved": {}, "model": {}}))
    save_delta(place / "delta.safetensors", base.components, other.components, base_name="base")
    before, after = (Network.parameters(each.unet) for each in (base, other))
    names = [name for name in after if not np.array_equal(after[name], before[name])]
    lora = extract_lora(before, after, 1, names).lora
    save_lora(place / "lora.safetensors", {"unet": lora})
    (place / "own.yaml").write_text(PROTOCOL)
    return place


def run(place, *words, output="out"):
    paths = [str(place / word) if (place / word).exists() else word for word in words]
    return cli.main(["evaluate", *paths, "--output", str(place / output)])


@pytest.mark.slow
def test_every_form_of_a_model_in_one_call(place, capsys):
    """The run, the delta and the LoRA are the same change; the base itself is none."""
    words = ("base", "runs/sneaker", "delta.safetensors", "lora.safetensors", "base")
    assert run(place, *words, "--protocol", str(place / "own.yaml")) == 0
    told = capsys.readouterr()
    lines = told.out.strip().splitlines()
    names = ["sneaker", "delta.safetensors", "lora.safetensors", "base"]
    assert len(lines) == len(names) + 1
    content = json.loads((place / "out" / "result.json").read_text())
    assert len(content["models"]) == 4
    values = [[f["value"]["value"] for f in m["figures"]] for m in content["models"].values()]
    np.testing.assert_allclose(values[1], values[0], atol=1e-12)
    np.testing.assert_allclose(values[2], values[0], atol=0.01)
    assert min(values[0]) > 0.001
    assert values[3] == [0.0, 0.0]
    shas = [m["sha256"] for m in content["models"].values()]
    assert shas[0] == shas[1]
    assert shas[3] == content["base"]["sha256"]
    assert re.search(r"pixel_change, retained 0\.\d\d \[", lines[0])
    page = (place / "out" / "report.html").read_text()
    assert page.count("<img") == 2 * 5 * 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for name in ("sneaker", "delta.safetensors"):
        assert f"<th>{name}</th>" in page
    assert "drawing with the base" in told.err


@pytest.mark.slow
def test_another_run_joins_and_is_compared(place, capsys):
    own = str(place / "own.yaml")
    assert run(place, "base", "delta.safetensors", "--protocol", own, output="one") == 0
    assert run(place, "base", "runs/sneaker", "--protocol", own, output="one") == 0
    assert list(json.loads((place / "one" / "result.json").read_text())["models"]) == [
        "delta.safetensors",
        "sneaker",
    ]
    capsys.readouterr()
    compare = ("--compare", str(place / "one"), "--images", str(place / "one" / "images"))
    assert run(place, "base", "base", "--protocol", own, *compare, output="two") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [
        "delta.safetensors",
        "sneaker",
        f"{place.name}/base",
    ]
    assert not (place / "two" / "images").exists()
    assert "not kept" not in (place / "two" / "report.html").read_text()
    other = place / "other.yaml"
    other.write_text(PROTOCOL.replace("steps: 2", "steps: 3"))
    assert run(place, "base", "base", "--protocol", str(other), *compare[:2], output="three") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot stand beside this one; steps: 3 and 2" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("base", "runs/sneaker", "--protocol", "fashon"), "did you mean 'fashion'"),
        (("base", "runs/sneaker", "--target", "snaeker"), "target 'snaeker' is not a concept of this model"),
        (("base", "delta.safetensors"), "needs a target; name it by --target"),
        (("base", "runs/sneaker"), "no judge for this model: .* ca-2023"),
        (("base", "runs/sneaker", "--protocol", "ca-2023", "--clip", "runs"), "config.json|CLIP"),
        (
            ("base", "own.yaml", "--protocol", "own.yaml"),
            "own.yaml.* is a file, expected a diffusers",
        ),
        (("base", "nowhere", "--protocol", "own.yaml"), "'nowhere': no such directory or file"),
        (("base", "base", "base", "--protocol", "own.yaml"), "named twice"),
        (("base",), "UNLEARNED"),
        (("base", "runs", "--protocol", "own.yaml"), "no model_index.json"),
        (("base", "runs/sneaker", "--anchor", "nearr"), "did you mean near"),
    ],
)
def test_mistakes_end_in_one_line(place, words, message, capsys):
    code = run(place, *words, output="bad")
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert re.search(message, error[-1]), error[-1]
    assert error[-1].startswith("fdiv-jax: ")
    assert not (place / "bad").exists()


def test_an_unfinished_run_and_a_place_that_is_taken(place, tmp_path, capsys):
    unfinished = tmp_path / "half"
    unfinished.mkdir()
    (unfinished / "config.json").write_text('{"config": {}, "resolved": {}}')
    own = str(place / "own.yaml")
    assert (
        cli.main(["evaluate", str(place / "base"), str(unfinished), "--protocol", own, "--output", "x"]) == 2
    )
    assert "is not finished" in capsys.readouterr().err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    words = [str(place / "base"), str(place / "base"), "--protocol", own]
    assert cli.main(["evaluate", *words, "--output", str(tmp_path / "taken")]) == 2
    assert "holds something else than an evaluation" in capsys.readouterr().err


def test_runs_that_unlearned_different_things_need_a_target(place, tmp_path, capsys):
    other = tmp_path / "shirt"
    other.mkdir()
    (other / "pipeline").symlink_to(place / "runs" / "sneaker" / "pipeline")
    config = UnlearningConfig(target="shirt", anchor="near").to_dict()
    (other / "config.json").write_text(json.dumps({"config": config, "resolved": {}}))
    words = ("base", "runs/sneaker", str(other))
    assert run(place, *words, output="bad") == 2
    assert "sneaker unlearned sneaker -> near, shirt shirt -> near" in capsys.readouterr().err


@pytest.mark.slow
def test_the_embedded_world_end_to_end(tmp_path, capsys):
    """A model that is the base gives differences whose intervals hold 0, with the judge."""
    copy = load_pipeline("fashion").save(tmp_path / "copy")
    own = tmp_path / "quick.yaml"
    own.write_text("like: fashion\nsteps: 4\nseeds: [0, 1]\n")
    words = ["evaluate", "fashion", str(copy), "--target", "sneaker", "--anchor", "near"]
    assert cli.main([*words, "--protocol", str(own), "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    figures = content["models"]["copy"]["figures"]
    assert {"ua", "ira", "cra", "harmonic", "kid"} <= {figure["metric"] for figure in figures}
    for figure in figures:
        interval = figure["difference"] or (figure["value"] if figure["metric"] == "kid" else None)
        if interval is not None:
            assert interval["low"] <= 0 <= interval["high"], figure
            assert abs(interval["value"]) < 1e-9
    base = {figure["metric"]: figure["value"]["value"] for figure in content["base"]["figures"]}
    assert base["ira"] > 0.7  # the judge knows what the world draws
    assert base["ua"] < 0.3
    assert content["backbones"]["classifier"].startswith("fashion judge (sha256 ")
