"""Models of one file, loaded with the configurations of a directory or with nothing beside them."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fdiv_jax import load_pipeline
from fdiv_jax.checkpoints import model_digest, save_single_file, state_dict
from fdiv_jax.cli import main
from fdiv_jax.nn.named import named_parameters


@pytest.fixture(scope="module")
def fashion():
    return load_pipeline("fashion")


@pytest.fixture(scope="module")
def file(fashion, tmp_path_factory):
    return save_single_file(tmp_path_factory.mktemp("file") / "model.safetensors", fashion.components)


def test_the_model_is_the_one_of_the_directory(fashion, file):
    loaded = load_pipeline(file, config="fashion")
    assert model_digest(loaded.components) == model_digest(fashion.components)
    assert loaded.name == str(file)
    assert loaded.concepts == fashion.concepts
    assert loaded.scheduler_config == fashion.scheduler_config
    assert loaded.unet.config == fashion.unet.config


def test_without_weights_the_header_is_enough(fashion, file, tmp_path):
    kept = tmp_path / "header.safetensors"
    content = file.read_bytes()
    kept.write_bytes(content[: 8 + int.from_bytes(content[:8], "little")])
    with kept.open("ab") as stream:
        stream.truncate(len(content))
    outline = load_pipeline(kept, config="fashion", weights=False)
    for name, module in fashion.components.items():
        found, expected = named_parameters(outline.components[name]), named_parameters(module)
        assert {key: leaf.shape for key, leaf in found.items()} == {
            key: leaf.shape for key, leaf in expected.items()
        }, name


@pytest.mark.slow
def test_precisions_are_those_of_the_file_and_of_the_caller(fashion, tmp_path):
    half = save_single_file(tmp_path / "half.safetensors", fashion.components, dtype="float16")
    loaded = load_pipeline(half, config="fashion", param_dtype="bfloat16")
    for name, module in loaded.components.items():
        assert set(loaded.stored_dtypes[name].values()) == {"float16"}
        assert {v.dtype for v in state_dict(module).values()} == {jnp.bfloat16.dtype}
    again = load_pipeline(half, config="fashion").save(tmp_path / "saved")  # each tensor as it was stored
    assert (
        load_file(again / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.bias"].dtype == np.float16
    )


def test_what_does_not_fit_is_named(file, tmp_path):
    with pytest.raises(ValueError, match=r"model\.safetensors: a UNet of \[.*groups .*by --config"):
        load_pipeline(file)  # of other norms than the published models
    with pytest.raises(ValueError, match="config 'fashion' beside the model 'fashion'; expected it with"):
        load_pipeline("fashion", config="fashion")
    with pytest.raises(NotADirectoryError, match=r"config .*model\.safetensors' is a file"):
        load_pipeline(file, config=file)
    with pytest.raises(FileNotFoundError, match="did you mean 'fashion'"):
        load_pipeline(file, config="fashon")
    tensors, name = load_file(file), "model.diffusion_model.input_blocks.0.0.weight"
    depth = tmp_path / "depth.safetensors"
    save_file(tensors | {name: np.zeros((32, 5, 3, 3), np.float32)}, depth)
    with pytest.raises(NotImplementedError, match=r"depth\.safetensors: a depth-to-image model: its UNet"):
        load_pipeline(depth, config="fashion")
    depth.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"depth\.safetensors"):
        load_pipeline(depth, config="fashion")


@pytest.mark.slow
def test_a_run_and_its_export_find_the_file_again(file, tmp_path, capsys):
    run = tmp_path / "run"
    words = "--config fashion --target sneaker --anchor near --steps 1 --batch-size 2 --images.number 2"
    assert main(["unlearn", str(file), *words.split(), "--output", str(run)]) == 0
    change = tmp_path / "change.safetensors"
    assert main(["export", str(run), "--format", "delta", "--output", str(change)]) == 0
    assert f"the tensors that differ from {file}" in capsys.readouterr().out
    assert all("attn2.to_" in name for name in load_file(change))
