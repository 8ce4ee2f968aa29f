"""The export command: every format, from directories to files that give the tuned model back."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from safetensors.numpy import load_file

from fdiv_jax import cli, load_pipeline
from fdiv_jax.checkpoints import (
    apply_delta,
    load_lora,
    load_single_file,
    load_state_dict,
    model_digest,
    state_dict,
)
from fdiv_jax.nn.lora import merge_lora
from fdiv_jax.pipeline.loras import origin
from fdiv_jax.unlearning import Network
from tests.tiny import tiny_pipeline

KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def tune(module, change):
    tensors = {name: value.copy() for name, value in state_dict(module).items()}
    change(tensors)
    return load_state_dict(module, tensors)


def low_rank(name, rank=2):
    rng = np.random.default_rng(0)

    def change(tensors):
        shape = tensors[name].shape
        update = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
        tensors[name] += 0.1 * update.astype(np.float32)

    return change


@pytest.fixture(scope="module")
def base():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def tuned(base):
    text = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    return base.replace(
        unet=tune(base.unet, low_rank(KEY)), text_encoder=tune(base.text_encoder, low_rank(text))
    )


@pytest.fixture(scope="module")
def run_directory(base, tuned, tmp_path_factory):
    """As `unlearn` writes it: the tuned pipeline, and a config.json that names the base."""
    directory = tmp_path_factory.mktemp("models")
    base.save(directory / "base")
    tuned.save(directory / "run" / "pipeline")
    named = {"model": {"name": str(directory / "base")}}
    (directory / "run" / "config.json").write_text(json.dumps(named))
    return directory / "run"


def export(model, form, output, *more):
    return cli.main(["export", str(model), "--format", form, "--output", str(output), *map(str, more)])


def assert_same(ours, theirs, tolerance=0.0):
    for component, module in theirs.items():
        expected = state_dict(module)
        for name, value in state_dict(ours[component]).items():
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("form", ["lora", pytest.param("kohya", marks=pytest.mark.slow)])
def test_a_lora_gives_the_tuned_model(form, base, tuned, run_directory, tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    assert export(run_directory, form, path, "--rank", 2) == 0
    assert "unet, 1 layers" in capsys.readouterr().out
    loras = load_lora(path, base.components)
    assert set(loras) == {"unet", "text_encoder"}
    merged = {
        component: Network(module).module(merge_lora(Network.parameters(module), loras[component]))
        for component, module in base.components.items()
        if component in loras
    }
    assert_same(merged, {component: tuned.components[component] for component in merged}, 1e-5)


@pytest.mark.parametrize("form", [pytest.param("lora", marks=pytest.mark.slow), "kohya"])
def test_a_rank_above_that_of_a_layer_keeps_its_whole_change(
    form, base, tuned, run_directory, tmp_path, capsys
):
    path = tmp_path / "lora.safetensors"
    assert export(run_directory, form, path, "--rank", 999) == 0
    told = capsys.readouterr().err
    layer = KEY.removesuffix(".weight")
    assert f"of a lower rank than 999, and kept whole: unet.{layer} (8), text_encoder." in told
    loras = load_lora(path, base.components)
    assert loras["unet"].rank(layer) == 8
    assert loras["unet"].scale(layer) == pytest.approx(1 if form == "lora" else 999 / 8)
    merged = {
        component: Network(base.components[component]).module(
            merge_lora(Network.parameters(base.components[component]), lora)
        )
        for component, lora in loras.items()
    }
    assert_same(merged, {component: tuned.components[component] for component in merged}, 1e-5)


def test_a_lora_of_some_parameters_and_of_a_lower_rank(run_directory, base, tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    arguments = ("--rank", 1, "--only", "cross-attn", "--dtype", "float16")
    assert export(run_directory / "pipeline", "lora", path, *arguments) == 0
    assert "text_encoder" not in capsys.readouterr().out
    assert load_lora(path, base.components)["unet"].targets == (KEY.removesuffix(".weight"),)


def test_a_delta_gives_the_tuned_model_exactly(base, tuned, run_directory, tmp_path):
    path = tmp_path / "delta.safetensors"
    assert export(run_directory, "delta", path) == 0
    assert_same(apply_delta(path, base.components), tuned.components)


@pytest.mark.slow
def test_a_run_in_half_precision_is_compared_with_its_base_as_it_was_loaded(run_directory, tmp_path):
    start = load_pipeline(run_directory.parent / "base", param_dtype="bfloat16")
    assert origin(start) == {"name": str(run_directory.parent / "base"), "param_dtype": "bfloat16"}
    half = run_directory.parent / "half"
    start.replace(unet=tune(start.unet, low_rank(KEY))).save(half / "pipeline")
    (half / "config.json").write_text(json.dumps({"model": origin(start)}))
    path = tmp_path / "delta.safetensors"
    assert export(half, "delta", path) == 0
    assert list(load_file(path)) == [f"unet.{KEY}"]


def test_a_single_file_gives_the_model(base, tuned, run_directory, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    assert export(run_directory, "single-file", path) == 0
    assert "not in a single file: unet norm_num_groups=4 (32 is assumed)" in capsys.readouterr().err
    assert_same(load_single_file(path, base.components), tuned.components)


def test_a_place_below_a_file_is_refused_before_any_work(run_directory, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("fdiv_jax.load_pipeline", lambda *_, **__: pytest.fail("work was begun"))
    assert export(run_directory, "delta", tmp_path / "file" / "delta.safetensors") == 2
    assert "file is a file, expected a directory" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_diffusers_directory_in_another_precision(tuned, run_directory, tmp_path):
    from safetensors.numpy import load_file

    assert export(run_directory, "diffusers", tmp_path / "out", "--dtype", "float16") == 0
    stored = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {np.dtype(np.float16)}
    rounded = load_pipeline(tmp_path / "out").components
    for component, module in tuned.components.items():
        for name, value in state_dict(module).items():
            np.testing.assert_array_equal(state_dict(rounded[component])[name], value.astype(np.float16))
    assert export(run_directory, "diffusers", tmp_path / "same") == 0
    assert_same(load_pipeline(tmp_path / "same").components, tuned.components)


@pytest.mark.parametrize(
    ("form", "more", "message"),
    [
        ("lora", ("--rank", 0), "rank 0, expected at least 1"),
        ("lora", ("--only", "to_nowhere"), "matches no parameter"),
        ("lora", ("--only", r"\.attn1\."), "none of the .* differs"),
        ("single-file", ("--base", "fashion"), "is of the model alone"),
        ("delta", ("--base", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(form, more, message, run_directory, tmp_path, capsys):
    import re

    assert export(run_directory, form, tmp_path / "x.safetensors", *more) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("fdiv-jax: ")
    assert error.count("\n") == 0
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_outputs_are_checked_before_anything_is_loaded(tmp_path, capsys):
    there = tmp_path / "there.safetensors"
    there.write_text("old")
    model = ("nowhere", "single-file")
    assert export(*model, there) == 2
    assert "exists; name another --output, or add --overwrite" in capsys.readouterr().err
    assert export(*model, tmp_path / "model.ckpt") == 2
    assert "ends in .safetensors" in capsys.readouterr().err
    assert export("nowhere", "diffusers", tmp_path) == 2
    assert "exists" in capsys.readouterr().err
    for form in ("kohya", "lora", "delta"):
        assert export("nowhere", form, tmp_path / "a.safetensors") == 2
        assert "model 'nowhere': no such directory" in capsys.readouterr().err
        assert export("fashion", form, tmp_path / "a.safetensors") == 2
        assert "name it by --base" in capsys.readouterr().err
    assert export(*model, there, "--overwrite") == 2
    assert "nowhere" in capsys.readouterr().err
    assert there.read_text() == "old"


def test_overwriting_replaces_models_alone(base, tmp_path, capsys):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("precious")
    assert export("nowhere", "diffusers", other, "--overwrite") == 2
    assert "holds chapter.tex and no model_index.json" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match=r"holds chapter\.tex and no model_index\.json"):
        base.save(other, overwrite=True)
    assert (other / "chapter.tex").read_text() == "precious"
    base.save(tmp_path / "model")
    base.save(tmp_path / "model", overwrite=True)


def test_a_base_that_is_not_the_one_of_the_run_is_told(base, tuned, run_directory, tmp_path):
    described = run_directory / "config.json"
    kept = described.read_text()
    try:
        for model, same in ((base, True), (tuned, False)):
            named = json.loads(kept)
            named["model"]["sha256"] = model_digest(model.components)
            described.write_text(json.dumps(named))
            told = nullcontext() if same else pytest.warns(UserWarning, match="is not the model that the run")
            with told:
                assert export(run_directory, "delta", tmp_path / f"{same}.safetensors") == 0
    finally:
        described.write_text(kept)


@pytest.mark.slow
def test_what_a_lora_cannot_hold_is_named(base, tuned, run_directory, tmp_path, capsys):
    def shift(tensors):
        tensors["conv_in.bias"] += 1

    base.replace(unet=tune(tuned.unet, shift)).save(tmp_path / "biased")
    base.replace(vae=tune(base.vae, lambda t: t["decoder.conv_in.weight"].__imul__(2))).save(tmp_path / "vae")
    frozen = run_directory.parent / "base"
    for model, message in (("biased", "conv_in.bias; name the kernels"), ("vae", "the autoencoder changed")):
        output = tmp_path / "lora.safetensors"
        assert export(tmp_path / model, "lora", output, "--base", frozen, "--rank", 1) == 2
        assert message in capsys.readouterr().err
        assert not output.exists()
    kernels = ("--base", frozen, "--rank", 2, "--only", r"kernel$")
    assert export(tmp_path / "biased", "lora", tmp_path / "kernels.safetensors", *kernels) == 0


@pytest.mark.slow
def test_xl_leaves_with_its_second_text_tower(tmp_path):
    base = tiny_pipeline(family="sdxl")
    name = "text_model.encoder.layers.0.mlp.fc1.weight"
    tuned = base.replace(text_encoder_2=tune(base.text_encoder_2, low_rank(name)))
    base.save(tmp_path / "base")
    tuned.save(tmp_path / "tuned")
    lora, file = tmp_path / "lora.safetensors", tmp_path / "model.safetensors"
    assert export(tmp_path / "tuned", "kohya", lora, "--base", tmp_path / "base", "--rank", 2) == 0
    (found,) = load_lora(lora, base.components).items()
    assert (found[0], found[1].targets) == ("text_encoder_2", (name.removesuffix(".weight"),))
    assert export(tmp_path / "tuned", "single-file", file) == 0
    assert_same(load_single_file(file, base.components), tuned.components)
