"""Models to share: the directory with its card, and the same pushed to a hub."""

import json
import re

import numpy as np
import pytest
import yaml

from fdiv_jax import cli
from fdiv_jax.checkpoints import apply_delta, load_lora, model_digest, state_dict
from fdiv_jax.pipeline.shared import FILES
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.result import versions
from tests.cli.test_export import KEY, assert_same, low_rank, tune
from tests.hub_server import TOKEN, hub_server
from tests.tiny import tiny_pipeline

TEXT_KEY = "text_model.encoder.layers.0.self_attn.q_proj.weight"
JUDGED = {
    "before": {"target_shown": 20, "target_images": 20, "retained_right": 42, "retained_images": 45},
    "after": {"target_shown": 0, "target_images": 20, "retained_right": 41, "retained_images": 45},
}


@pytest.fixture(scope="module")
def base():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def tuned(base):
    return base.replace(
        unet=tune(base.unet, low_rank(KEY)), text_encoder=tune(base.text_encoder, low_rank(TEXT_KEY))
    )


@pytest.fixture(scope="module")
def run(base, tuned, tmp_path_factory):
    """A run directory as `unlearn` writes it, of a base whose card names a licence."""
    directory = tmp_path_factory.mktemp("sharing")
    frozen = base.save(directory / "painter")
    (frozen / "README.md").write_text("---\nlicense: openrail++\nlicense_link: LICENSE\n---\n# Painter\n")
    tuned.save(directory / "run" / "pipeline")
    config = UnlearningConfig(target="a `cat`|\n# x", anchor="near", prompts=("a `cat`|\n# x",), seed=3)
    description = {
        "config": config.to_dict(),
        "resolved": {
            "pairs": [{"target": "a `cat`|\n# x ``` y", "anchor": ""}],
            "retained": ["a dog"],
            "divergence": {"name": "squared_hellinger", "generator": "(sqrt(t) - 1)**2", "curvature": "1/2"},
            "trainable": {"pattern": "cross-attn", "parameters": 128, "of": 1000},
        },
        "model": {"name": str(frozen), "sha256": model_digest(base.components)},
        "devices": ["TFRT_CPU_0"],
        "versions": versions(),
    }
    (directory / "run" / "config.json").write_text(json.dumps(description))
    summary = {"m_first": 0.5, "m_last": 0.01, "averaged_over_steps": 30, "judged": JUDGED, "warnings": []}
    (directory / "run" / "result.json").write_text(json.dumps(summary))
    return directory / "run"


def header_and_text(directory):
    _, header, text = (directory / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), text


def export(*arguments):
    return cli.main(["export", *map(str, arguments)])


def test_a_directory_with_a_card_says_what_the_run_did(run, base, tuned, tmp_path, capsys):
    output = tmp_path / "shared"
    assert export(run, "--card", "--output", output) == 0
    assert "and a model card" in capsys.readouterr().out
    assert {each.name for each in output.iterdir()} == {"README.md", FILES["delta"]}
    assert_same(apply_delta(output / FILES["delta"], base.components), tuned.components)
    header, text = header_and_text(output)
    assert header["license"] == "openrail++"
    assert "license_link" not in header  # of a file that is not here
    assert "base_model" not in header  # a directory is no model of the hub
    assert {"concept-erasure", "stable-diffusion"} <= set(header["tags"])
    for told in (
        "(sqrt(t) - 1)**2",
        "f''(1) = 1/2",
        "300 of 16 samples",
        "128 of 1,000",
        "`a dog`",
        "the empty prompt",
        "20 of 20 (86 to 100 %)",  # mid-P: 0.05^(1/20) = 0.861
        "0 of 20 (0 to 14 %)",
        "from 0.5 to 0.01",
        "not proof against attack",
        f"jax {versions()['jax']}",
        "--seed 3",
    ):
        assert told in text, told
    assert "openrail++" in text
    everything = b"".join(each.read_bytes() for each in output.iterdir())
    assert str(tmp_path).encode() not in everything
    assert str(run.parent).encode() not in everything  # where things lie is nobody's business


def test_text_of_prompts_stays_text(run, tmp_path):
    """A prompt with a line break, backticks, bars and fences makes no heading, cell or code of its own."""
    assert export(run, "--card", "--output", tmp_path / "shared") == 0
    _, text = header_and_text(tmp_path / "shared")
    headings = re.findall(
        r"^#.*", re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    assert [line for line in headings if line.startswith("# ")] == headings[:1]
    assert headings[1:] == [
        "## What was unlearned",
        "## How",
        "## Measured",
        "## Limits",
        "## Load it",
        "## Licence",
        "## Source",
    ]
    (row,) = (line for line in text.splitlines() if "the empty prompt |" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_a_lora_says_what_it_leaves_out(run, base, tmp_path):
    output = tmp_path / "shared"
    assert export(run, "--card", "--format", "lora", "--rank", 1, "--output", output) == 0
    assert load_lora(output / FILES["lora"], base.components)["unet"].targets
    header, text = header_and_text(output)
    assert "lora" in header["tags"]
    assert re.search(r"leaves out [\d.]+ % of the unet's, [\d.]+ % of the text_encoder's change", text)
    assert "load_lora_weights" in text


@pytest.mark.parametrize("form", [None, "diffusers", "lora"])
def test_pushing_sends_the_directory_and_no_token(form, run, tmp_path, capsys, monkeypatch):
    with hub_server(monkeypatch) as hub:
        more = ("--format", form) if form else ()
        assert export(run, "--push", "someone/no-cat", "--private", *more) == 0
        told = capsys.readouterr()
    assert hub.keys >= {f"Bearer {TOKEN}"}  # the library uses it at the network's edge
    (settings,) = hub.repositories.values()
    assert (
        settings.get("private") or settings.get("visibility") == "private"
    )  # as versions of the library say it
    assert FILES.get(form or "delta", "unet/diffusion_pytorch_model.safetensors") in hub.files
    card = hub.files["README.md"].decode()
    assert "here = 'someone/no-cat'" in card
    everything = b"".join(hub.files.values()) + (told.out + told.err).encode()
    assert TOKEN.encode() not in everything
    assert str(run.parent).encode() not in everything
    assert "/someone/no-cat: " in told.out


def test_what_stays_here_holds_no_token(run, tmp_path, monkeypatch, capsys):
    with hub_server(monkeypatch) as hub:
        assert export(run, "--push", "someone/no-cat", "--output", tmp_path / "kept") == 0
    kept = {each.name: each.read_bytes() for each in (tmp_path / "kept").iterdir()}
    assert kept == hub.files
    assert TOKEN not in str(kept)


def test_a_pipeline_pushes_itself(base, monkeypatch, capsys):
    with hub_server(monkeypatch) as hub:
        address = base.push_to_hub("someone/tiny")
    assert address.endswith("/someone/tiny")
    assert {"README.md", "model_index.json", "unet/config.json"} <= hub.files.keys()
    assert "licence of the base model, `tiny`, is unknown" in hub.files["README.md"].decode()
    told = capsys.readouterr()
    assert TOKEN not in told.out + told.err + str(hub.files)


@pytest.mark.parametrize(
    ("status", "error"), [(401, PermissionError), (403, PermissionError), (500, ConnectionError)]
)
def test_what_the_hub_refuses_is_one_line_without_the_token(status, error, base, monkeypatch):
    with hub_server(monkeypatch) as hub:
        hub.status = status
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        with pytest.raises(error, match="someone/tiny") as caught:
            base.push_to_hub("someone/tiny")
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pushing_is_refused_before_anything_is_loaded(capsys, monkeypatch):
    for arguments, told in (
        (("--push", "no-owner"), "expected owner/name"),
        (("--push", "someone/x"), "HF_HUB_OFFLINE is set"),
        (("--card",), "--output is missing"),
        (("--private", "--card", "--output", "x"), "--private is of a repository"),
    ):
        assert export("fashion", *arguments) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert export("nowhere", "--push", "someone/x", "--format", "diffusers") == 2
    assert "hf auth login" in capsys.readouterr().err


def test_only_what_was_shared_is_overwritten(run, tmp_path, capsys):
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter.tex").write_text("precious")
    assert export(run, "--card", "--output", output, "--overwrite") == 2
    assert "holds chapter.tex" in capsys.readouterr().err
    assert export(run, "--card", "--output", tmp_path / "x") == 0
    assert export(run, "--card", "--output", tmp_path / "x") == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert export(run, "--card", "--format", "diffusers", "--output", tmp_path / "x", "--overwrite") == 0
    assert (tmp_path / "x" / "model_index.json").is_file()
    assert not (tmp_path / "x" / FILES["delta"]).exists()


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.parametrize("form", ["diffusers", "lora", "kohya", "delta", "single-file"])
def test_the_code_on_the_card_loads_the_model_in_diffusers(form, run, base, tuned, tmp_path, monkeypatch):
    """Both blocks of the card run as they stand, beside a copy of the base."""
    pytest.importorskip("diffusers")
    output = tmp_path / "shared"
    # Of a kohya file diffusers takes the attention of a text tower with its out_proj alone (docs/export.md).
    only = ("--only", "^unet") if form == "kohya" else ()
    assert export(run, "--card", "--format", form, "--output", output, *only) == 0
    _, text = header_and_text(output)
    theirs, ours = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (output / "painter").symlink_to(run.parent / "painter")
    monkeypatch.chdir(output)
    names: dict = {}
    exec(theirs.replace('pipe("a prompt")', 'pipe("a prompt", num_inference_steps=1)'), names)
    assert names["image"].size == (16, 16)
    if form in ("lora", "kohya"):
        names["pipe"].fuse_lora()
        names["pipe"].unload_lora_weights()
    found = names["pipe"].unet.state_dict()[KEY].float().numpy()
    expected = np.asarray(tuned.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.kernel[...]).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    text = names["pipe"].text_encoder
    theirs = {name.removeprefix("text_model."): value for name, value in text.state_dict().items()}
    tuned = tuned if form != "kohya" else tuned.replace(text_encoder=base.text_encoder)
    expected = state_dict(tuned.text_encoder)[TEXT_KEY]
    np.testing.assert_allclose(theirs[TEXT_KEY.removeprefix("text_model.")].numpy(), expected, atol=1e-5)
    names = {}
    exec(ours, names)
    assert_same(names["pipe"].components, tuned.components, 1e-5)
