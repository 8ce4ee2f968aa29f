"""A run to first order: products with its Jacobian against differences and steps of the run itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fdiv_jax.theory import quadratic_descent
from fdiv_jax.unlearning import (
    LinearisedRun,
    OptimiserConfig,
    SquaredDistance,
    initial_state,
    make_reference,
    make_step,
    prepare,
    train,
)
from fdiv_jax.unlearning.linearised import Descent
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the anchor images of these tests are kept."""
    return tmp_path_factory.mktemp("anchors")


@pytest.fixture
def linearised(pipe, config, place):
    """Makes a run and its linearisation at `batches` batches."""

    def make(batches=2, **changes):
        prepared = prepare(pipe, config(**{"divergence": "kl", "anchor": "near", **changes}))
        return prepared, LinearisedRun.of(prepared, prepared.data(place), batches)

    return make


def test_residuals_square_to_m(comparison, pipe):
    c = comparison()
    c = c._replace(mask=c.mask.at[1].set(0.0))
    for scale in ("mean", "sum", "schedule"):
        distance = SquaredDistance(pipe.schedule, scale, 0.6)
        found = jnp.sum(distance.residual(c) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(found, distance(c), rtol=1e-5)
        assert found[1] == 0


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"retained": None, "scale": "schedule", "sigma": 0.5}, marks=pytest.mark.slow),
        pytest.param({"trainable": "embedding", "anchor": "negative"}, marks=pytest.mark.slow),
    ],
    ids=["weights", "retained", "embedding"],
)
def test_products_are_those_of_the_jacobian(linearised, changes):
    _, run = linearised(**changes)
    rng = np.random.default_rng(0)
    size, n = run.start.size, run.samples
    u = rng.standard_normal((2, size)).astype(np.float32)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    pushed = run.push(u)
    eps = 1e-2
    for k in range(2):
        ends = [run.outputs(run.start + sign * eps * u[k]).residual for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * eps)
        np.testing.assert_allclose(pushed[..., k], difference, atol=2e-3 * np.abs(pushed).max())
    np.testing.assert_allclose(run.damage(u), np.sum(pushed**2, axis=1), rtol=1e-4, atol=1e-7)
    there = run.at(run.start + 0.5 * u[0])
    ends = [run.outputs(there.start + sign * eps * u[1]).residual for sign in (1, -1)]
    difference, curved = (ends[0] - ends[1]) / (2 * eps), there.push(u)[..., 1]
    np.testing.assert_allclose(curved, difference, atol=2e-3 * np.abs(pushed).max())
    assert np.abs(curved - pushed[..., 1]).max() > 1e-3 * np.abs(pushed).max()
    pulled = run.kernel(u)  # J^T J is symmetric, and its form is the square of J
    form = np.einsum("npa,npb->ab", pushed, pushed) / n
    np.testing.assert_allclose(u @ pulled.T, form, rtol=1e-3, atol=1e-4 * np.abs(form).max())
    outputs = run.outputs()
    weights = rng.random((2, n))
    expected = np.einsum("kn,np,npa->ka", weights, outputs.residual, pushed) / n
    np.testing.assert_allclose(
        run.gradients(weights) @ u.T, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    of_all = run.gradients(np.ones((2, n)))[0]  # as many rows as before: the program is the same
    np.testing.assert_allclose(run.gradients().mean(0), of_all, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_first_step_of_the_run(linearised, place):
    """One step of plain descent of the library moves by -h times what `gradients` says of its batch."""
    prepared, run = linearised(batches=1, steps=1, learning_rate=0.5, optimiser=OptimiserConfig(name="sgd"))
    learned = train([prepared], [None], [[]], progress=False, cache=place)[0].learned
    moved = ravel_pytree(learned)[0] - run.start
    expected = -0.5 * run.gradients(np.ones((1, run.samples)))[0]
    np.testing.assert_allclose(moved, expected, atol=5e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_descent_is_predicted_where_the_network_is_nearly_linear(linearised):
    """Steps of the library's own step on batches in turn, against the quadratic model of them."""
    prepared, run = linearised(batches=2, divergence="squared_hellinger", scale="sum")
    descent = run.descent(8)
    h, steps = 0.05 / np.linalg.eigvalsh(descent.kernel)[-1], 6
    turns = np.arange(steps)[:, None] % 2 * 4 + np.arange(4)
    distances = run.distances(descent)
    predicted = distances(quadratic_descent("squared_hellinger", distances, h, steps, batches=turns))
    plan = dataclasses.replace(prepared.plan, optimiser=OptimiserConfig(name="sgd"))
    state = initial_state(plan, prepared.frozen, h, jax.random.key(0))
    step, reference = jax.jit(make_step(plan)), jax.jit(make_reference(plan))
    measured = [run.outputs().m]
    for number in range(steps):
        batch = jax.tree.map(lambda part, at=number % 2: part[at], run._batches)
        key = run._keys[number % 2]
        state, _ = step(state, prepared.frozen, batch, reference(prepared.frozen, batch, key), key)
        measured.append(run.outputs(state.trained).m)
    fall = measured[0] - measured[-1]
    assert np.abs(fall).max() > 0
    np.testing.assert_allclose(predicted[-1] - predicted[0], -fall, atol=0.1 * np.abs(fall).max())


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_adam_on_one_parameter_without_noise_is_adam(steps, x64):
    """m = (e + a theta)^2: the gradient of m / 2 is a (e + a theta), and its square is the second moment."""
    e, a, rate = 3.0, 0.7, 0.05
    adam = optax.adam(rate, b1=0.9, b2=0.99, eps=0.0)
    theta = jnp.zeros(1)
    state = adam.init(theta)
    for _ in range(steps):
        change, state = adam.update(a * (e + a * theta), state)
        theta = theta + change
    root = 1 / np.sqrt(a * e)
    found = Descent(np.array([[root]]), np.array([[(a * root) ** 2]]), np.array([a * e * root]))
    optimiser = OptimiserConfig(b1=0.9, b2=0.99)
    moved = found.adam_change(rate, steps, optimiser, start=e**2, noise=0.0)
    np.testing.assert_allclose(moved, theta, rtol=1e-6)


def test_plain_descent_of_many_steps_is_that_of_its_directions():
    rng = np.random.default_rng(3)
    jacobian, e = rng.standard_normal((9, 5)), rng.standard_normal(9)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    found = Descent(basis, basis @ (jacobian.T @ jacobian) @ basis.T, basis @ (jacobian.T @ e))
    h, theta = 1 / np.linalg.norm(jacobian, 2) ** 2, np.zeros(5)
    for _ in range(17):
        theta -= h * jacobian.T @ (e + jacobian @ theta)
    np.testing.assert_allclose(found.change(h, 17), theta, rtol=1e-5, atol=1e-6)


def test_every_image_is_seen_once(linearised, place):
    prepared, _ = linearised(batches=1)
    data = prepared.data(place)
    batches, shown = data.everything(3)
    seen = np.concatenate([np.asarray(batch.latents) for batch in batches])
    assert len({len(batch.position) for batch in batches}) == 1
    kept = shown >= 0
    assert kept.sum() == sum(len(own) for own in data.images_of)
    for pair, own in enumerate(data.images_of):
        np.testing.assert_array_equal(seen[shown == pair], data.latents[own])
    text = np.concatenate([np.asarray(batch.target_text) for batch in batches])
    np.testing.assert_array_equal(text[kept], data.target_text[shown[kept]])


@pytest.mark.slow
def test_what_has_no_first_order_is_refused(pipe, config, place):
    prepared = prepare(pipe, config(reference="current"))
    with pytest.raises(NotImplementedError, match="current"):
        LinearisedRun(prepared, [])
    with pytest.raises(ValueError, match="closed form"):
        LinearisedRun(prepare(pipe, config(method="edit")), [])
    with pytest.raises(ValueError, match="no batches"):
        LinearisedRun(prepare(pipe, config()), [])
    linear = prepare(pipe, config(anchor="near"))
    batch = linear.data(place).batch(0, 0, 4)
    with pytest.raises(ValueError, match="8 samples at 4 positions would share their noise"):
        LinearisedRun(linear, [batch, batch], key=jax.random.key(0))


@pytest.mark.slow
def test_products_of_a_network_with_long_attention(config, place):
    """1,024 pixels attend to each other, as in every Stable Diffusion."""
    pipe = tiny_pipeline(latent=32)
    found = []
    for implementation in ("auto", "plain"):
        one = pipe.with_attention(implementation)
        prepared = prepare(one, config(divergence="kl", anchor="near", batch_size=2))
        run = LinearisedRun.of(prepared, prepared.data(place / implementation), 1)
        gradients = run.gradients()
        found.append((gradients, run.push(gradients), run.kernel(gradients)))
    for ours, plain in zip(*found, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-4 * np.abs(plain).max())
