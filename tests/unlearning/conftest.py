"""What the tests of unlearning share: one tiny pipeline, its data, and a network of a few parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.unlearning import AnchorImagesConfig, Comparison, UnlearningConfig
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def pipe():
    """A tiny text-to-image model."""
    return tiny_pipeline()


@pytest.fixture
def config():
    """Makes the configuration of a short run."""

    def make(**changes):
        settings = {
            "target": "sneaker",
            "steps": 6,
            "batch_size": 4,
            "images": AnchorImagesConfig(number=4, steps=2),
            "retained": (),
        }
        return UnlearningConfig(**{**settings, **changes})

    return make


@pytest.fixture
def comparison():
    """Makes a comparison of random predictions, some pixels of it masked."""

    def make(n=3, size=8, *, spread=0.3, seed=0, masked=True, dtype=None):
        rng = np.random.default_rng(seed)
        reference = rng.standard_normal((n, size, size, 4))
        prediction = reference + spread * rng.standard_normal(reference.shape)
        mask = rng.random((n, size, size)) < 0.7 if masked else np.ones((n, size, size))
        dtype = dtype or jnp.result_type(float)
        return Comparison(
            jnp.asarray(reference, dtype),
            jnp.asarray(prediction, dtype),
            jnp.asarray(mask, dtype),
            jnp.asarray(rng.integers(1000, size=n), jnp.int32),
        )

    return make


class ToyNetwork:
    """tanh of a linear map of (x_t, text), with a small dependence on t: a stand-in for the UNet."""

    def parameters(self, seed=0):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)  # noqa: E731
        return {"attn2.to_k.kernel": draw(6, 4), "attn2.to_v.kernel": draw(4, 4), "conv.kernel": draw(4, 4)}

    def __call__(self, parameters, x, t, text):
        p = parameters
        context = jnp.tanh(text.mean(axis=1) @ p["attn2.to_k.kernel"]) @ p["attn2.to_v.kernel"]
        scale = 1 + t.astype(x.dtype)[:, None, None, None] / 1000
        return scale * jnp.tanh(x @ p["conv.kernel"] + context[:, None, None, :])


@pytest.fixture
def toy():
    """A network of three small matrices."""
    return ToyNetwork()


def relative_error(tree, expected):
    """The greatest difference over the greatest expected value."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    errors = [
        (np.max(np.abs(np.asarray(a) - np.asarray(b))), np.max(np.abs(np.asarray(b)))) for a, b in pairs
    ]
    return max(error for error, _ in errors) / max(size for _, size in errors)
