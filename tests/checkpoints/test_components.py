"""Component directories: what is written comes back bit for bit, and every fault of a file is named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import load_component, load_state_dict, save_component, state_dict
from fdiv_jax.nn import AutoencoderKL, CLIPTextModel, VAEConfig, abstract_module
from tests.tiny import fill

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = VAEConfig(block_out_channels=(4,), norm_num_groups=2, layers_per_block=1)


@pytest.fixture(scope="module")
def model():
    return fill(abstract_module(lambda rngs: AutoencoderKL(CONFIG, rngs=rngs)), np.random.default_rng(0))


def decoded(model, latents):
    """By one program; op by op would be some fifty."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, latents: nnx.merge(graph, state).decode(latents))(state, latents)


@pytest.fixture
def directory(model, tmp_path):
    save_component(tmp_path / "vae", model)
    return tmp_path / "vae"


def edit(directory, change):
    """Rewrite the weights with `change` applied to the dict of tensors."""
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS)


def same(a, b):
    a, b = state_dict(a), state_dict(b)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_round_trip_is_the_identity(model, directory):
    loaded = load_component(directory, AutoencoderKL)
    assert same(loaded.model, model)
    assert loaded.model.config == CONFIG
    assert loaded.config["_class_name"] == "AutoencoderKL"
    assert set(loaded.stored_dtypes.values()) == {"float32"}
    latents = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3, 4)), jnp.float32)
    np.testing.assert_array_equal(decoded(loaded.model, latents), decoded(model, latents))


def test_layouts_are_pytorchs(model):
    tensors = state_dict(model)
    convolution, linear = (
        model.encoder.conv_in.kernel[...],
        model.encoder.mid_block.attentions[0].to_q.kernel[...],
    )
    np.testing.assert_array_equal(tensors["encoder.conv_in.weight"], np.transpose(convolution, (3, 2, 0, 1)))
    np.testing.assert_array_equal(tensors["encoder.mid_block.attentions.0.to_q.weight"], np.transpose(linear))
    assert "encoder.mid_block.attentions.0.group_norm.weight" in tensors
    assert "encoder.mid_block.attentions.0.to_out.0.bias" in tensors


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float64"])
def test_untouched_tensors_keep_their_bits_and_their_dtype(stored, directory, tmp_path):
    dtype = jnp.dtype(stored)
    edit(directory, lambda tensors: tensors.update({name: v.astype(dtype) for name, v in tensors.items()}))
    before = load_file(directory / WEIGHTS)
    loaded = load_component(directory, AutoencoderKL)
    assert set(loaded.stored_dtypes.values()) == {stored}
    trained = loaded.model.encoder.conv_in.kernel
    trained[...] = trained[...] * (1 + 1e-6)  # needs more digits than half precision has

    save_component(tmp_path / "out", loaded.model, config=loaded.config, stored_dtypes=loaded.stored_dtypes)
    after = load_file(tmp_path / "out" / WEIGHTS)
    assert after.keys() == before.keys()
    for name, value in after.items():
        if name == "encoder.conv_in.weight":
            assert value.dtype == (np.float64 if stored == "float64" else np.float32)
            np.testing.assert_array_equal(value, np.transpose(trained[...], (3, 2, 0, 1)))
        else:
            assert value.dtype == dtype
            assert value.tobytes() == before[name].tobytes(), name
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == loaded.config


def test_parameters_take_the_precision_asked_for(directory):
    loaded = load_component(directory, AutoencoderKL, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(loaded.model, nnx.Param))} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert jax.eval_shape(loaded.model.decode, jnp.zeros((1, 2, 2, 4))).dtype == jnp.float32


def test_shards_are_read_through_their_index(model, directory):
    tensors = load_file(directory / WEIGHTS)
    names = sorted(tensors)
    placed = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        placed.update(dict.fromkeys(part, file))
    (directory / WEIGHTS).unlink()
    index = directory / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    assert same(load_component(directory, AutoencoderKL).model, model)

    save_file({name: tensors[name] for name in (names[0], *names[1::2])}, directory / file)
    with pytest.raises(ValueError, match=rf"tensor {names[0]} is in .*00001-of.* and in .*00002-of"):
        load_component(directory, AutoencoderKL)

    (directory / file).unlink()
    with pytest.raises(FileNotFoundError, match="00002-of-00002"):
        load_component(directory, AutoencoderKL)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="another directory"):
        load_component(directory, AutoencoderKL)


def test_a_variant_is_read_when_it_is_named(model, directory):
    (directory / WEIGHTS).rename(directory / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(FileNotFoundError, match="variant='fp16'"):
        load_component(directory, AutoencoderKL)
    assert same(load_component(directory, AutoencoderKL, variant="fp16").model, model)


def test_missing_and_unexpected_tensors_are_named(directory):
    def rename(tensors):
        tensors["encoder.conv_in.wieght"] = tensors.pop("encoder.conv_in.weight")

    edit(directory, rename)
    with pytest.raises(ValueError) as error:
        load_component(directory, AutoencoderKL)
    message = str(error.value)
    assert "1 missing: encoder.conv_in.weight" in message
    assert "1 unexpected: encoder.conv_in.wieght" in message
    assert str(directory / WEIGHTS) in message


def test_misshapen_tensors_are_named_with_both_shapes(directory):
    edit(
        directory,
        lambda tensors: tensors.update({"encoder.conv_in.weight": np.zeros((4, 5, 3, 3), np.float32)}),
    )
    with pytest.raises(
        ValueError, match=r"encoder.conv_in.weight: got \(4, 5, 3, 3\), expected \(4, 3, 3, 3\)"
    ):
        load_component(directory, AutoencoderKL)


def test_a_square_matrix_is_not_mistaken_for_a_larger_convolution(directory):
    name = "encoder.mid_block.attentions.0.to_q.weight"
    edit(directory, lambda tensors: tensors.update({name: np.zeros((4, 4, 2, 2), np.float32)}))
    with pytest.raises(ValueError, match=r"got \(4, 4, 2, 2\), expected \(4, 4\)"):
        load_component(directory, AutoencoderKL)


def test_a_tensor_that_is_there_twice_is_refused(directory):
    old, new = (f"encoder.mid_block.attentions.0.{name}.weight" for name in ("query", "to_q"))
    edit(directory, lambda tensors: tensors.update({old: tensors[new] + 1}))
    with pytest.raises(ValueError, match="the same tensor as"):
        load_component(directory, AutoencoderKL)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.bool_])
def test_quantised_tensors_are_refused(kind, directory):
    name = "encoder.conv_in.weight"
    edit(directory, lambda tensors: tensors.update({name: tensors[name].astype(kind)}))
    with pytest.raises(ValueError, match=f"{name} is of type"):
        load_component(directory, AutoencoderKL)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(keep, directory):
    file = directory / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{WEIGHTS} is truncated or not a safetensors file"):
        load_component(directory, AutoencoderKL)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_a_pickle_is_refused_unopened(name, directory):
    (directory / WEIGHTS).unlink()
    (directory / name).write_bytes(b"cos\nsystem\n(S'touch broken'\ntR.")
    with pytest.raises(ValueError, match=f"{name}.*pickle"):
        load_component(directory, AutoencoderKL)


def test_missing_files_are_named(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*config.json"):
        load_component(tmp_path / "nowhere", AutoencoderKL)
    (directory / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights.*found config.json"):
        load_component(directory, AutoencoderKL)
    (directory / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json, column 2: not JSON"):
        load_component(directory, AutoencoderKL)
    (directory / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"JSON object"):
        load_component(directory, AutoencoderKL)


def test_another_class_is_refused(directory):
    with pytest.raises(ValueError, match="of class AutoencoderKL, expected CLIPTextModel"):
        load_component(directory, CLIPTextModel)


def test_an_unsupported_configuration_is_named(directory):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps(config | {"down_block_types": ["AttnDownEncoderBlock2D"]})
    )
    with pytest.raises(NotImplementedError, match="AttnDownEncoderBlock2D"):
        load_component(directory, AutoencoderKL)


def test_an_unknown_dtype_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"encoder\.conv_in\.weight must be one of"):
        save_component(tmp_path, model, stored_dtypes={"encoder.conv_in.weight": "int8"})


def test_variables_without_a_rule_are_refused():
    with pytest.raises(NotImplementedError, match="no rule for BatchStat mean"):
        state_dict(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))


def test_loading_copies(model):
    """The module that is filled, and the arrays it is filled from, stay as they are."""
    tensors = {name: value + 1 for name, value in state_dict(model).items()}
    before = {name: value.copy() for name, value in state_dict(model).items()}
    filled = load_state_dict(model, tensors)
    assert all(np.array_equal(v, tensors[name]) for name, v in state_dict(filled).items())
    assert all(np.array_equal(v, before[name]) for name, v in state_dict(model).items())
