"""Groups of parameters, and a module as a function of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdiv_jax.nn import Critic
from fdiv_jax.unlearning import Network, select
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def parameters(pipe):
    return Network.parameters(pipe.unet)


def test_cross_attention_is_keys_and_values_of_the_text(parameters):
    chosen = select(parameters, "cross-attn")
    assert len(chosen.names) == 8  # to_k, to_v: one transformer going down, one in the middle, two going up
    assert all(name.split(".")[-3:-1] in (["attn2", "to_k"], ["attn2", "to_v"]) for name in chosen.names)
    assert chosen.count == 8 * 8 * 8  # width of the text times channels
    assert "8 tensors, 512 parameters" in str(chosen)


def test_other_groups_and_patterns(parameters):
    attention = select(parameters, "attn")
    assert {name.split("attn")[-1].split(".", 1)[1] for name in attention.names} == {
        "to_q.kernel",
        "to_k.kernel",
        "to_v.kernel",
        "to_out.0.kernel",
        "to_out.0.bias",
    }
    assert set(select(parameters, "full").names) == set(parameters)
    assert select(parameters, "full").count == sum(value.size for value in parameters.values())
    assert select(parameters, r"^conv_in\.kernel$").names == ("conv_in.kernel",)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("cros-attn", "matches no parameter; did you mean 'cross-attn'"),
        (r"attn3\.to_k", r"matches no parameter.*names such as \w+"),
        ("to_(k", "nor a regular expression"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(group, message, parameters):
    with pytest.raises(ValueError, match=message):
        select(parameters, group)


def test_a_network_is_its_module(pipe, parameters):
    network = Network(pipe.unet)
    rng = np.random.default_rng(0)
    x, text = jnp.asarray(rng.standard_normal((2, 8, 8, 4)), jnp.float32), jnp.ones((2, 24, 8))
    t = jnp.array([3, 700])
    expected = pipe.denoise(x, t, text)
    np.testing.assert_array_equal(jax.jit(network)(parameters, x, t, text), expected)
    again = Network.parameters(network.module(parameters))
    assert again.keys() == parameters.keys()
    with pytest.raises(ValueError, match=r"missing: \['conv_in.bias'\]"):
        network.module({name: value for name, value in parameters.items() if name != "conv_in.bias"})


def test_networks_of_one_structure_are_one_key(pipe):
    other = tiny_pipeline(seed=5)
    assert Network(pipe.unet) == Network(other.unet)
    assert hash(Network(pipe.unet)) == hash(Network(other.unet))
    assert Network(pipe.unet) != Network(pipe.text_encoder)
    assert len({Network(pipe.unet), Network(other.unet), Network(pipe.text_encoder)}) == 2


def test_a_module_with_other_state_is_refused():
    critic = nnx.eval_shape(lambda: Critic(rngs=nnx.Rngs(0), hidden_channels=(4,), head_channels=4))
    with pytest.raises(TypeError, match="SpectralVector, expected a Param"):
        Network(critic)
