"""Deltas: base + delta is the tuned model bit for bit, and no other base is taken."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fdiv_jax.checkpoints import apply_delta, load_state_dict, module_digest, save_delta, state_dict
from tests.tiny import tiny_pipeline

KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def components(pipe):
    return {"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder}


def changed(module, change):
    tensors = {name: value.copy() for name, value in state_dict(module).items()}
    change(tensors)
    return load_state_dict(module, tensors)


@pytest.fixture(scope="module")
def base():
    return components(tiny_pipeline())


@pytest.fixture(scope="module")
def tuned(base):
    def train(tensors):
        name = KEY.removeprefix("unet.")
        tensors[name] *= np.float32(1 + 1e-7)  # the last bit of some
        tensors["conv_in.bias"][0] = -0.0
        tensors["conv_in.bias"][1] = np.inf

    zero = changed(base["unet"], lambda t: t["conv_in.bias"].__setitem__(0, 0.0))
    return {**base, "unet": changed(zero, train)}


def same(a, b):
    a, b = state_dict(a), state_dict(b)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_base_and_delta_are_the_tuned_model_bit_for_bit(base, tuned, tmp_path):
    path = save_delta(tmp_path / "delta.safetensors", base, tuned, base_name="tiny")
    assert set(load_file(path)) == {KEY, "unet.conv_in.bias"}
    result = apply_delta(path, base)
    assert not same(base["unet"], tuned["unet"])
    assert same(result["unet"], tuned["unet"])
    assert result["vae"] is base["vae"]
    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["fdiv_jax_delta"])
    assert about == {
        "version": 1,
        "base": "tiny",
        "digests": {name: module_digest(module) for name, module in base.items()},
        "dtype": None,
    }


def test_a_sign_of_zero_is_a_change(base, tmp_path):
    zero = {**base, "unet": changed(base["unet"], lambda t: t["conv_in.bias"].__setitem__(0, 0.0))}
    minus = {**base, "unet": changed(base["unet"], lambda t: t["conv_in.bias"].__setitem__(0, -0.0))}
    path = save_delta(tmp_path / "delta.safetensors", zero, minus)
    assert same(apply_delta(path, zero)["unet"], minus["unet"])


def test_a_smaller_dtype_rounds(base, tmp_path):
    tuned = {**base, "unet": changed(base["unet"], lambda t: t.update({KEY[5:]: t[KEY[5:]] + 0.1}))}
    path = save_delta(tmp_path / "delta.safetensors", base, tuned, dtype="float16")
    stored = load_file(path)[KEY]
    assert stored.dtype == np.float16
    expected = state_dict(tuned["unet"])[KEY[5:]].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(state_dict(apply_delta(path, base)["unet"])[KEY[5:]], expected)


def test_another_base_is_refused_unless_told_so(base, tuned, tmp_path):
    path = save_delta(tmp_path / "delta.safetensors", base, tuned, base_name="tiny")
    other = components(tiny_pipeline(seed=1))
    with pytest.raises(ValueError, match=r"made from the base 'tiny', whose text_encoder, unet, vae is not"):
        apply_delta(path, other)
    with pytest.raises(ValueError, match="whose vae is not"):
        apply_delta(path, {**base, "vae": other["vae"]})
    result = apply_delta(path, other, check=False)
    assert state_dict(result["unet"])[KEY[5:]].tobytes() == state_dict(tuned["unet"])[KEY[5:]].tobytes()
    assert same(apply_delta(path, {"unet": base["unet"]})["unet"], tuned["unet"])
    with pytest.raises(ValueError, match="changes unet, but the base has vae"):
        apply_delta(path, {"vae": base["vae"]})


def test_the_digest_is_of_names_shapes_and_values(base):
    unet = base["unet"]
    assert module_digest(unet) == module_digest(load_state_dict(unet, state_dict(unet)))
    nudged = changed(unet, lambda t: t["conv_in.bias"].__setitem__(0, np.nextafter(t["conv_in.bias"][0], 9)))
    assert module_digest(nudged) != module_digest(unet)
    rounded = changed(
        unet, lambda t: t.update({n: v.astype(np.float16).astype(np.float32) for n, v in t.items()})
    )
    graph, _ = nnx.split(unet)
    half = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.float16), nnx.state(rounded)))
    assert module_digest(half) == module_digest(rounded)


def test_faults_are_named_and_nothing_is_written(base, tuned, tmp_path):
    path = tmp_path / "delta.safetensors"
    with pytest.raises(ValueError, match="same parameters as its base 'tiny'"):
        save_delta(path, base, base, base_name="tiny")
    with pytest.raises(ValueError, match="expected those of the base"):
        save_delta(path, base, {"unet": tuned["unet"]})
    with pytest.raises(ValueError, match="dtype 'int4'"):
        save_delta(path, base, tuned, dtype="int4")
    with pytest.raises(ValueError, match=r"has shape .* in the base"):
        save_delta(path, base, {**base, "unet": components(tiny_pipeline())["vae"]})
    assert not path.exists()

    save_delta(path, base, tuned)
    with pytest.raises(FileExistsError, match="exists"):
        save_delta(path, base, tuned)
    tensors = load_file(path)
    with safe_open(path, framework="np") as file:
        header = file.metadata()
    save_file({"unet.nowhere.weight": tensors[KEY]}, path, metadata=header)
    with pytest.raises(ValueError, match=r"1 unexpected: nowhere\.weight"):
        apply_delta(path, base)
    later = {"fdiv_jax_delta": json.dumps({"version": 2, "digests": {}})}
    save_file(tensors, path, metadata=later)
    with pytest.raises(NotImplementedError, match="a delta of version 2"):
        apply_delta(path, base)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="is not a delta"):
        apply_delta(path, base)
    with pytest.raises(FileNotFoundError):
        apply_delta(tmp_path / "nowhere.safetensors", base)
