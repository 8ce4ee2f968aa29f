"""Runs that share a program, and what is measured on the way of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    CriticConfig,
    HeldOutDistance,
    Network,
    prepare,
    share_program,
    train,
)
from fdiv_jax.unlearning.timesteps import draw_noise, timesteps_of

SMALL = CriticConfig(warmup=1, hidden_channels=(8,), head_channels=8)


def test_runs_that_differ_in_their_divergence_have_one_plan(pipe, config):
    names = ("kl", "pearson_chi2", "kl", "squared_hellinger")
    formulas = [prepare(pipe, config(divergence=name)) for name in names]
    exact = prepare(pipe, config(divergence="jensen_shannon", loss="exact"))
    games = [prepare(pipe, config(divergence=n, loss="variational", critic=SMALL)) for n in names[:2]]
    other = prepare(pipe, config(scale="sum"))
    shared = share_program([*formulas, exact, *games, other])
    assert [run.config for run in shared] == [run.config for run in (*formulas, exact, *games, other)]
    assert len({run.plan for run in shared[:5]}) == 1
    assert [int(run.frozen.choice) for run in shared[:5]] == [0, 1, 0, 2, 3]
    assert len({run.plan for run in shared[5:7]}) == 1
    assert shared[5].plan != shared[0].plan
    assert shared[7] is other
    assert share_program(formulas[:1]) == formulas[:1]
    for run, d in zip(shared, (*names, "jensen_shannon"), strict=False):
        weight = run.plan.loss.at(run.frozen.choice).weight(jnp.zeros(1))
        expected = {"kl": 1.0, "pearson_chi2": 2.0, "squared_hellinger": 0.5, "jensen_shannon": 0.5}[d]
        assert float(weight[0]) == pytest.approx(expected, rel=1e-6)  # w_f(0) = f''(1)


def test_what_the_model_decides_is_on_record(pipe, config):
    """A run goes on where its settings are named that it began without, as older versions name them."""
    asked = config(images=AnchorImagesConfig())
    named = config(images=AnchorImagesConfig(sampler="dpm++", steps=25, guidance=6.0))
    assert asked != named
    told = [prepare(pipe, each).description()["config"]["images"] for each in (asked, named)]
    assert told[0] == told[1]
    assert (told[0]["sampler"], told[0]["steps"], told[0]["guidance"]) == ("dpm++", 25, 6.0)


@pytest.mark.slow
def test_a_run_of_a_shared_program_is_the_run_alone(pipe, config, tmp_path):
    """To rounding: the curves and what was learned, for formulas and against a critic."""
    for options in ({"loss": "exact"}, {"loss": "variational", "critic": SMALL}):
        runs = [prepare(pipe, config(divergence=n, **options)) for n in ("kl", "jensen_shannon")]
        many = [None, None], [(), ()]
        alone = train(runs, *many, progress=False, cache=tmp_path)
        shared = train(share_program(runs), *many, progress=False, cache=tmp_path)
        for a, b in zip(alone, shared, strict=True):
            np.testing.assert_allclose(b.history["loss"], a.history["loss"], rtol=2e-4, atol=1e-7)
            for name, value in a.learned.items():
                np.testing.assert_allclose(b.learned[name], value, atol=1e-4)


@pytest.mark.slow
def test_the_held_out_distance_is_m_of_the_model(pipe, config, tmp_path):
    """Before the first step, on the way and at the end, against m written out."""
    settings = config(steps=3, learning_rate=1e-2)
    run = prepare(pipe, settings)
    images = AnchorImagesConfig(number=3, steps=2, seed=9)
    batch = prepare(pipe, dataclasses.replace(settings, images=images)).data(tmp_path).batch(0, 0, 3)
    watch = HeldOutDistance(run, batch, every=2)
    (result,) = train([run], [None], [[watch]], progress=False, cache=tmp_path)
    assert watch.steps == [0, 2, 3]
    t = jnp.asarray([166, 500, 833])  # the middles of three equal parts of 1000 timesteps
    _, noise = draw_noise(
        jax.random.key(1), batch.position, batch.latents.shape[1:], timesteps_of(pipe.schedule)
    )
    x_t = pipe.schedule.add_noise(batch.latents, noise, t)
    for unet, found in ((pipe.unet, watch.m[0]), (result.pipeline.unet, watch.m[-1])):
        apart = unet(x_t, t, batch.target_text) - pipe.unet(x_t, t, batch.anchor_text)
        expected = np.mean(np.sum(np.asarray(apart, np.float64) ** 2, -1))
        assert found == pytest.approx(expected, rel=1e-4)
    assert watch.m[0] != watch.m[-1]


def test_what_cannot_be_measured_is_refused(pipe, config, tmp_path):
    run = prepare(pipe, config())
    batch = run.data(tmp_path).batch(0, 0, 2)
    with pytest.raises(ValueError, match="every 0, expected at least 1"):
        HeldOutDistance(run, batch, every=0)
    words = prepare(pipe, config(trainable="embedding"))
    with pytest.raises(NotImplementedError, match="token embeddings learn"):
        HeldOutDistance(words, batch)
    assert set(Network.parameters(pipe.unet)) == set(run.frozen.unet)
