"""The engine on tiny models of every family of Stable Diffusion."""

import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.checkpoints import load_lora, model_digest, state_dict
from fdiv_jax.nn.lora import merge_lora
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    CriticConfig,
    Erasure,
    LoraConfig,
    Network,
    OptimiserConfig,
    PreservationConfig,
)
from tests.tiny import tiny_pipeline


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@pytest.mark.slow
def test_a_run_draws_the_target_to_the_anchor(family, tmp_path):
    pipe = tiny_pipeline(4, family=family)
    config = fj.UnlearningConfig(
        target="sneaker",
        steps=12,
        batch_size=4,
        learning_rate=3e-3,
        retained=(),
        images=AnchorImagesConfig(number=4, steps=2),
    )
    result = fj.unlearn(pipe, config, tmp_path / "run", progress=False, cache=False)
    m = result.history["m"]
    assert np.all(np.isfinite(m))
    assert m[-4:].mean() < m[:4].mean()
    before, after = state_dict(pipe.unet), state_dict(fj.load_pipeline(tmp_path / "run" / "pipeline").unet)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name}


@pytest.mark.slow
def test_many_parts_at_once_on_two_text_towers(tmp_path):
    """Stable Diffusion XL: a critic on x_0, a LoRA, preservation with surgery, an average, two concepts,
    parts of a batch."""
    pipe = tiny_pipeline(4, family="sdxl")
    config = fj.UnlearningConfig(
        concepts=(Erasure("sneaker"), Erasure("sketch", anchor="near")),
        divergence="jensen_shannon",
        loss="variational",
        critic=CriticConfig(
            warmup=4, sees="x0", generator="non-saturating", hidden_channels=(8,), head_channels=8
        ),
        lora=LoraConfig(rank=2),
        preservation=PreservationConfig(weight=0.5, at="retained"),
        optimiser=OptimiserConfig(ema=0.5, schedule="cosine"),
        steps=6,
        batch_size=4,
        accumulation=2,
        learning_rate=1e-2,
        images=AnchorImagesConfig(number=4, steps=2),
    )
    result = fj.unlearn(pipe, config, tmp_path / "run", progress=False, cache=False)
    history = result.history
    np.testing.assert_array_equal(history["warmup"], [True] * 4 + [False] * 6)
    assert {"critic_value", "prior_loss", "conflicts"} <= set(history)
    assert not history["skipped"].any()
    assert all(np.all(np.isfinite(values)) for values in history.values())
    assert np.all(history["prior_loss"][:5] < 1e-10)  # the model is the frozen one up to its first step
    assert np.all(history["prior_loss"][5:] > 1e-10)
    frozen = state_dict(pipe.unet)
    found = load_lora(tmp_path / "run" / "lora.safetensors", {"unet": pipe.unet})["unet"]
    merged = merge_lora(Network.parameters(pipe.unet), found)
    loaded = fj.load_pipeline(tmp_path / "run" / "pipeline")
    for name, value in Network.parameters(loaded.unet).items():
        np.testing.assert_allclose(value, merged[name], atol=1e-6)
    after = state_dict(loaded.unet)
    changed = {name for name in frozen if not np.array_equal(frozen[name], after[name])}
    assert changed == {name for name in frozen if ".attn2.to_k." in name or ".attn2.to_v." in name}
    again = fj.unlearn(pipe, config, progress=False, cache=False)
    assert model_digest(again.pipeline.components) == model_digest(loaded.components)
