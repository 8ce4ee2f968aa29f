"""The engine on tiny models of every family of Stable Diffusion."""

import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax.checkpoints import state_dict
from fdiv_jax.unlearning import AnchorImagesConfig
from tests.tiny import tiny_pipeline


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
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
