"""What the tests of monitoring share: a tiny model, another one that it became, results."""

import numpy as np
import pytest

from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    Network,
    PromptPair,
    UnlearningConfig,
    UnlearningResult,
    select,
)
from tests.tiny import tiny_pipeline

IMAGES = AnchorImagesConfig(number=2, steps=2, guidance=2.0)


@pytest.fixture(scope="session")
def pipe():
    """The model before."""
    return tiny_pipeline(latent=4)


@pytest.fixture(scope="session")
def after():
    """The model after."""
    return tiny_pipeline(1, latent=4)


def history_of(steps, warmup=0, skipped=()):
    """Figures that fall, with a step of the opponent first for each of `warmup`."""
    step = np.arange(1, warmup + steps + 1)
    lost = np.isin(step, skipped)
    loss = np.where(lost, np.nan, np.exp(-step / 10))
    history = {"step": step, "warmup": step <= warmup, "loss": loss, "m": 8 * loss, "m_max": 20 * loss}
    history |= {"weight": 0.5 - 0.1 * loss, "gradient_norm": loss / 7, "skipped": lost}
    return history | ({"critic_value": -loss} if warmup else {})


@pytest.fixture
def result(pipe, after):
    """Makes a result out of its configuration and history."""

    def make(history=None, pairs=None, **changes):
        config = UnlearningConfig(**{"target": "sneaker", "steps": 6, "images": IMAGES, **changes})
        return UnlearningResult(
            pipeline=after,
            history=history_of(config.steps) if history is None else history,
            config=config,
            pairs=pairs or (PromptPair("a sneaker, photo style", "a shoe, photo style"),),
            selection=select(Network.parameters(pipe.unet), "cross-attn"),
            retained=("", "a shirt, photo style"),
            divergence={"name": "squared_hellinger", "generator": "(sqrt(t) - 1)**2", "curvature": "1/2"},
            model={"name": "tiny", "sha256": "ab" * 32},
            devices=("cpu:0",),
            seconds=75.0,
        )

    return make
