"""Networks without parameters: what is built again is what was asked for, and nobody else's."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from fdiv_jax.nn import AutoencoderKL, CLIPTextModel, abstract_module, abstract_network

TOWER = {
    "vocab_size": 12,
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def shapes(network):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.to_pure_dict(nnx.state(network)))


def test_they_are_those_of_the_network_itself():
    real = CLIPTextModel.from_config(TOWER, rngs=nnx.Rngs(0))
    for _ in range(2):
        assert shapes(abstract_network(CLIPTextModel, TOWER)) == shapes(real)
    assert shapes(abstract_module(lambda rngs: CLIPTextModel.from_config(TOWER, rngs=rngs))) == shapes(real)


def test_each_differs_by_all_that_was_asked():
    first = abstract_network(CLIPTextModel, TOWER)
    wide = abstract_network(CLIPTextModel, {**TOWER, "intermediate_size": 8})
    half = abstract_network(CLIPTextModel, TOWER, param_dtype=jnp.bfloat16)
    computes = abstract_network(CLIPTextModel, TOWER, dtype=jnp.bfloat16)
    assert len({str(shapes(each)) for each in (first, wide, half)}) == 3
    assert nnx.graphdef(first) != nnx.graphdef(computes)
    assert isinstance(abstract_network(AutoencoderKL, {}), AutoencoderKL)
    with pytest.raises(ValueError, match="hidden_size"):
        abstract_network(CLIPTextModel, {**TOWER, "hidden_size": True})


def test_what_is_changed_on_one_does_not_show_on_the_next():
    first, second = (abstract_network(CLIPTextModel, TOWER) for _ in range(2))
    before = shapes(second)
    for _, module in nnx.iter_modules(first):
        module.mark = "changed"
    for variable in jax.tree.leaves(nnx.state(first), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        variable.set_metadata(mark="changed")
    for network in (second, abstract_network(CLIPTextModel, TOWER)):
        assert shapes(network) == before
        assert not any(hasattr(module, "mark") for _, module in nnx.iter_modules(network))
    assert nnx.graphdef(second) == nnx.graphdef(abstract_network(CLIPTextModel, TOWER))
