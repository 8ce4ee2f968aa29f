"""The loss of attacks that learn from images, against the pipeline's own networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.evaluation.attacks.denoising import (
    Denoising,
    denoising_loss,
    draw_batch,
    fit,
    loss_and_gradient,
    show,
)
from fdiv_jax.evaluation.attacks.tokens import slots
from fdiv_jax.unlearning import trainable_of
from tests.evaluation.attacks.cases import tiny_case


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sdxl"])
def test_the_loss_of_places_is_that_of_a_model_with_these_rows(family):
    case = tiny_case(family)
    places = slots(case, 2)
    shown = show(case.pipe, places.images(case))
    plan = Denoising.of(case, places.trainable)
    noised = draw_batch(case.pipe.schedule, shown, jax.random.key(1), 4)
    rows = {
        name: jnp.asarray(np.random.default_rng(k).standard_normal((2, table.shape[1])), jnp.float32)
        for k, (name, table) in enumerate(places.tables.items())
    }
    value, gradient = jax.jit(loss_and_gradient, static_argnums=0)(plan, rows, places.frozen, shown, noised)

    attacked = places.trainable.pipeline(case.pipe, rows, places.frozen)
    captions = [places.images(case).captions[i] for i in noised.image]
    x0 = case.pipe.encode_images(case.images.pixels)[noised.image]
    x_t = case.pipe.schedule.add_noise(x0, noised.noise, noised.timesteps)
    output = attacked.denoise(x_t, noised.timesteps, attacked.encode_prompts(captions))
    goal = case.pipe.schedule.target(x0, noised.noise, noised.timesteps)
    np.testing.assert_allclose(value, np.mean((np.asarray(output) - np.asarray(goal)) ** 2), rtol=2e-5)
    assert set(gradient) == set(rows)
    assert all(float(jnp.abs(each).max()) > 0 for each in gradient.values())


@pytest.mark.slow
def test_the_gradient_is_that_of_differences_and_does_not_depend_on_the_parts():
    case = tiny_case()
    places = slots(case, 1)
    shown = show(case.pipe, places.images(case))
    plan = Denoising.of(case, places.trainable)
    parts = dataclasses.replace(plan, accumulation=2)
    noised = draw_batch(case.pipe.schedule, shown, jax.random.key(1), 4)
    rows = places.rows(np.array([[3]]))
    (name,) = rows
    away = np.random.default_rng(0).standard_normal(rows[name].shape).astype(np.float32)
    step = 0.03  # the cube of the step and the digits of float32 each leave a few per cent

    @jax.jit
    def everything(rows, shown, noised):
        ends = [
            denoising_loss(plan, {name: rows[name] + sign * step * away}, places.frozen, shown, noised)
            for sign in (1, -1)
        ]
        whole = denoising_loss(plan, rows, places.frozen, shown, noised)
        return loss_and_gradient(parts, rows, places.frozen, shown, noised), whole, ends[0] - ends[1]

    (value, gradient), whole, difference = everything(rows, shown, noised)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    np.testing.assert_allclose(
        difference / (2 * step), np.sum(np.asarray(gradient[name]) * away), rtol=0.1, atol=1e-6
    )


@pytest.mark.slow
def test_a_fit_goes_down_and_a_shorter_one_is_its_beginning():
    case = tiny_case()
    trainable, frozen, _ = trainable_of(case.pipe, "cross-attn")
    shown, plan = show(case.pipe, case.images), Denoising.of(case, trainable)
    initial = trainable.initial(frozen, jax.random.key(0))
    rates = dict.fromkeys(initial, 1e-2)
    heard = []

    def run(*at):
        return list(
            fit(plan, initial, frozen, shown, jax.random.key(2), rates, at, lambda *told: heard.append(told))
        )

    long, short = run(5, 60), run(5)
    for name, value in short[0][1].items():
        np.testing.assert_array_equal(value, long[0][1][name])
    batch = draw_batch(case.pipe.schedule, shown, jax.random.key(9), 64)
    before, after = (denoising_loss(plan, each, frozen, shown, batch) for each in (initial, long[1][1]))
    assert float(after) < 0.9 * float(before)
    assert [step for step, _ in heard if step == 60]
    rates = dict.fromkeys(initial, float("inf"))
    with pytest.raises(ValueError, match="the loss at step"):
        list(fit(plan, initial, frozen, shown, jax.random.key(0), rates, (4,), lambda *_: None))
