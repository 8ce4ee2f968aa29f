"""What the descent of other methods needs of the step: a mask, a balance, random prompts, an adversary."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from fdiv_jax.distributed import DataParallel, ShardedMesh, SingleDevice
from fdiv_jax.unlearning import (
    AdversaryConfig,
    Frozen,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    SaliencyConfig,
    UnlearningConfig,
    initial_state,
    prepare,
    unlearn,
)
from fdiv_jax.unlearning.adversary import attack
from fdiv_jax.unlearning.batch import Prior
from fdiv_jax.unlearning.linearised import check_first_order
from fdiv_jax.unlearning.preservation import add_gradients, random_prior
from fdiv_jax.unlearning.saliency import largest, saliency_mask
from fdiv_jax.unlearning.timesteps import draw_noise
from tests.unlearning.conftest import relative_error
from tests.unlearning.test_loop import stopped
from tests.unlearning.test_step import KEY, SCHEDULE, batch, loss_of, one_step, plan_of, run

QUIET = {"progress": False, "cache": False}
ATTACK = AdversaryConfig(steps=3, radius=0.4)


def retained(b, places):
    """The batch with retained samples at these places."""
    same = np.zeros(len(b.position), bool)
    same[places] = True
    return dataclasses.replace(b, target_text=jnp.where(same[:, None, None], b.anchor_text, b.target_text))


@pytest.mark.parametrize("at", ["prompt", "token"])
@pytest.mark.slow
def test_the_attack_by_hand(at, toy):
    """Sample by sample and step by step, with m written out; it ends nearer to the concept than it began."""
    plan = plan_of(toy, adversary=dataclasses.replace(ATTACK, at=at))
    b, frozen = retained(batch(3), [2]), Frozen(toy.parameters())
    trained = {name: frozen.unet[name] + 0.3 for name in plan.trainable.names}
    offset, m = jax.jit(lambda *x: attack(plan, *x))(trained, frozen, b, KEY)
    t, noise = draw_noise(KEY, b.position, (8, 8, 4), plan.timesteps)
    x_t = SCHEDULE.add_noise(b.latents, noise, t)
    others = np.asarray(draw_noise(KEY, jnp.arange(8), (8, 8, 4), plan.timesteps)[1]).reshape(8, -1)[:, :30]

    @jax.jit
    @jax.value_and_grad
    def distance(d, x_t, t, text, mask):
        ours = toy({**frozen.unet, **trained}, x_t[None], t[None], (text + d)[None])
        theirs = toy(frozen.unet, x_t[None], t[None], text[None])
        return jnp.sum(mask * jnp.sum((ours - theirs)[0] ** 2, -1)) / jnp.sum(mask)

    stride = 2.5 * 0.4 / 3
    for i in range(3):
        free = np.zeros((5, 6)) if i == 2 else np.ones((5, 6))
        if at == "token":
            free[:-1] = 0
        key = jax.random.fold_in(jax.random.fold_in(KEY, 2**32 - 3), i)
        start = np.asarray(jax.random.uniform(key, (5, 6), minval=-1.0, maxval=1.0))
        assert all(abs(spearmanr(start.ravel(), other)[0]) < 0.8 for other in others)  # no bits used twice
        d = free * 0.4 * start
        sample = (x_t[i], t[i], b.target_text[i], b.mask[i])
        values = []
        for _ in range(3):
            value, gradient = distance(d, *sample)
            values.append(value)
            d = free * np.clip(d - stride * np.sign(gradient), -0.4, 0.4)
        np.testing.assert_allclose(offset[i], d, atol=1e-6)
        np.testing.assert_allclose(m[i], 0.0 if i == 2 else values[-1], rtol=1e-5)
        if i != 2:
            assert distance(d, *sample)[0] < values[0]


@pytest.mark.slow
def test_the_loss_is_that_at_the_attacked_features(toy):
    """And the gradient too: the offset is a constant to it. Before `after` steps there is none."""
    plan = plan_of(toy, adversary=dataclasses.replace(ATTACK, after=2))
    b, frozen = batch(), Frozen(toy.parameters())
    still, plain, metrics = one_step(plan, toy, b)
    assert metrics["attacked"] == 0.0
    late = dataclasses.replace(still, step=jnp.asarray(2, jnp.int32))
    _, after, metrics = one_step(plan, toy, b, state=late)
    offset, m = jax.jit(lambda *x: attack(plan, *x))(still.trained, frozen, b, KEY)
    moved = dataclasses.replace(b, offset=offset)
    _, expected, other = one_step(plan_of(toy), toy, moved, state=still)
    np.testing.assert_allclose(metrics["loss"], other["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["attacked"], m.mean(), rtol=1e-5)
    assert relative_error(after.trained, expected.trained) < 1e-6
    assert relative_error(after.trained, plain.trained) > 1e-4


EVERYTHING = {
    "adversary": dataclasses.replace(ATTACK, after=1),
    "preservation": PreservationConfig(weight=0.5, at="random", surgery=False, balance=0.7),
    "saliency": SaliencyConfig(share=0.5),
}


@pytest.mark.parametrize(
    ("kind", "parts", "family"),
    [(DataParallel, 2, "closed"), (ShardedMesh, 1, "closed"), (DataParallel, 2, "variational")],
)
@pytest.mark.slow
def test_four_devices_are_one(kind, parts, family, toy, monkeypatch):
    """An adversary, a balance, random prompts and a mask, on devices of two samples and in parts."""
    monkeypatch.setattr(ShardedMesh, "SMALL", 8)
    plan = plan_of(toy, loss_of(family=family), **EVERYTHING)
    four, rows_of_four = run(kind(), dataclasses.replace(plan, accumulation=parts), toy, steps=4)
    one, rows = run(SingleDevice(), plan, toy, steps=4)
    assert relative_error(four[-1].trained, one[-1].trained) < 2e-5
    attacked = [k > plan.warmup for k in range(4)]  # after the critic's warm-up and one step more
    assert [row["attacked"] > 0 for row in rows] == attacked
    for a, b in zip(rows, rows_of_four, strict=True):
        assert {"attacked", "balance", "prior_loss"} < set(a)
        for figure in a:
            np.testing.assert_allclose(a[figure], b[figure], rtol=5e-4, atol=1e-6, err_msg=figure)


def test_nothing_outside_the_mask_changes(toy):
    plan = plan_of(toy, optimiser=OptimiserConfig(weight_decay=0.1), saliency=SaliencyConfig(share=0.5))
    frozen = Frozen(toy.parameters())
    state = initial_state(plan, frozen, 0.1, KEY)
    assert all(np.all(mask) for mask in state.mask.values())
    rng = np.random.default_rng(0)
    mask = {name: jnp.asarray(rng.random(value.shape) < 0.5) for name, value in state.trained.items()}
    before, after, metrics = one_step(plan, toy, batch(), state=dataclasses.replace(state, mask=mask))
    _, _, whole = one_step(plan, toy, batch(), state=state)
    for name, chosen in mask.items():
        same = np.asarray(before.trained[name] == after.trained[name])
        np.testing.assert_array_equal(same, ~np.asarray(chosen))
        np.testing.assert_array_equal(after.mask[name], chosen)
    assert 0 < metrics["gradient_norm"] < whole["gradient_norm"]


def test_the_largest_of_all_together():
    rng = np.random.default_rng(0)
    values = {"a": rng.random((7, 3)), "b": 2 * rng.random(11), "c": np.zeros((2, 2))}
    flat = np.concatenate([value.ravel() for value in values.values()])
    for share, count in ((0.25, 9), (1e-9, 1), (0.95, 35), (1.0, 36)):  # 0.95: three of the four equal ones
        found = largest(values, share)
        chosen = np.concatenate([np.asarray(found[name]).ravel() for name in values])
        assert chosen.sum() == count
        assert set(flat[chosen]) == set(np.sort(flat)[::-1][:count])
        assert all(found[name].shape == value.shape for name, value in values.items())


@pytest.mark.slow
def test_the_mask_of_a_run(pipe, config):
    """Against the whole gradient, summed sample by sample with the network called as a pipeline calls it."""
    settings = config(retained=("a shirt, photo style",), saliency=SaliencyConfig(share=0.3, guidance=2.0))
    prepared = prepare(pipe, settings)
    data = prepared.data(False)
    state = initial_state(prepared.plan, prepared.frozen, 1e-3, KEY)
    found = saliency_mask(prepared, data, state.trained)
    batches, shown = data.everything(2)
    assert -1 not in shown[:4]
    assert len(data.pairs) - 1 in shown  # a retained pair is there and does not count
    empty = pipe.encode_prompts([""])
    root = jax.random.fold_in(jax.random.key(settings.seed), 4)

    @jax.jit
    def gradient(trained, latents, text, t, noise):
        def error(own):
            unet = prepared.plan.network.module({**prepared.frozen.unet, **own})
            x_t = SCHEDULE.add_noise(latents, noise, t)
            out = unet(jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t]), jnp.concatenate([text, empty]))
            return jnp.mean((3.0 * out[:1] - 2.0 * out[1:] - noise) ** 2)

        return jax.grad(error)(trained)

    total = jax.tree.map(lambda a: np.zeros(a.shape), state.trained)
    for number, b in enumerate(batches):
        t, noise = draw_noise(
            jax.random.fold_in(root, number), b.position, pipe.latent_shape, prepared.plan.timesteps
        )
        for i in range(2):
            if shown[2 * number + i] not in (-1, len(data.pairs) - 1):
                rows = (b.latents[i : i + 1], b.target_text[i : i + 1], t[i : i + 1], noise[i : i + 1])
                total = jax.tree.map(lambda a, g: a + np.asarray(g), total, gradient(state.trained, *rows))
    expected = np.concatenate([np.abs(total[name]).ravel() for name in found])
    chosen = np.concatenate([np.asarray(found[name]).ravel() for name in found])
    assert chosen.sum() == int(np.ceil(0.3 * len(chosen)))
    assert expected[chosen].min() > expected[~chosen].max() * (1 - 1e-3)


@pytest.mark.slow
def test_a_run_with_everything_goes_on_bit_for_bit(pipe, config, tmp_path, monkeypatch):
    settings = config(**EVERYTHING, accumulation=2, steps=8, optimiser=OptimiserConfig(weight_decay=0.1))
    whole = unlearn(pipe, settings, **QUIET)
    stopped(pipe, settings, tmp_path / "run", monkeypatch, 5, **QUIET)
    monkeypatch.setattr("fdiv_jax.unlearning.run.saliency_mask", None)  # the mask comes from the checkpoint
    again = unlearn(pipe, settings, tmp_path / "run", resume=True, **QUIET)
    assert 0 < again.resumed_at < 8
    for name, value in whole.learned.items():
        np.testing.assert_array_equal(value, again.learned[name])
    for name, values in whole.history.items():
        np.testing.assert_array_equal(values, again.history[name])
    same = [np.mean(whole.learned[n] == prepare(pipe, settings).frozen.unet[n]) for n in whole.learned]
    sizes = [value.size for value in whole.learned.values()]
    assert np.average(same, weights=sizes) == pytest.approx(0.5, abs=0.01)  # the others learn


def test_the_balance_of_two_gradients():
    rng = np.random.default_rng(0)
    g, p = (
        {"a": jnp.asarray(rng.standard_normal(5)), "b": jnp.asarray(rng.standard_normal((2, 2)))}
        for _ in "gp"
    )
    flat = [np.concatenate([np.ravel(x) for x in tree.values()]) for tree in (g, p)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    for balance in (0.05, 0.9):
        config = PreservationConfig(weight=2.0, surgery=False, balance=balance)
        total, figures = add_gradients(config, g, p)
        factor = max(balance - cosine, 0.0)
        assert figures["balance"] == pytest.approx(factor, rel=1e-5)
        for name in g:
            np.testing.assert_allclose(total[name], factor * g[name] + 2.0 * p[name], rtol=1e-5)
    none = jax.tree.map(jnp.zeros_like, p)  # at the first step both models are one
    assert add_gradients(config, g, none)[1]["balance"] == pytest.approx(0.9)


def test_random_prompts_are_seldom_near_the_target():
    """In three dimensions cos(u, c) has the density (1 - x) / 2: the mean -1/3, the variance 2/9."""
    n = 20000
    target = jnp.broadcast_to(jnp.array([[3.0, 0.0, -4.0]]), (n, 1, 3))
    latents = jnp.zeros((n, 1, 1, 1))
    b = dataclasses.replace(
        batch(1), latents=latents, target_text=target, mask=latents[..., 0], position=jnp.arange(n)
    )
    prior = jax.jit(random_prior)(b, KEY)
    assert isinstance(prior, Prior)
    drawn = np.asarray(prior.text)[:, 0]
    lengths = np.linalg.norm(drawn, axis=1)
    cosine = drawn @ np.array([0.6, 0.0, -0.8]) / lengths
    assert cosine.mean() == pytest.approx(-1 / 3, abs=4 * np.sqrt(2 / 9 / n))
    assert cosine.var() == pytest.approx(2 / 9, abs=0.01)
    assert lengths.min() >= 0.8 * 5 - 1e-5
    assert lengths.max() <= 1.2 * 5 + 1e-5
    assert lengths.mean() == pytest.approx(5.0, abs=0.03)
    other = random_prior(jax.tree.map(lambda a: a[7:9], b), KEY)
    np.testing.assert_allclose(other.text[:, 0], drawn[7:9], rtol=1e-5)


@pytest.mark.slow
def test_the_prior_at_random_prompts(toy):
    """The trained model is held to the frozen one there: no term at the first step, one after it."""
    plan = plan_of(toy, preservation=PreservationConfig(weight=3.0, at="random", surgery=False))
    b = batch()
    _, after, metrics = one_step(plan, toy, b)
    assert metrics["prior_loss"] < 1e-12
    _, _, metrics = one_step(plan, toy, b, state=after)
    assert metrics["prior_loss"] > 1e-6


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (lambda: {"saliency": SaliencyConfig(share=0.0)}, ValueError, r"share in \(0, 1\], got 0.0"),
        (lambda: {"saliency": SaliencyConfig(share=1.5)}, ValueError, r"share in \(0, 1\], got 1.5"),
        (lambda: {"saliency": SaliencyConfig(share="half")}, TypeError, "share must be a number, got 'half'"),
        (
            lambda: {"saliency": SaliencyConfig(share=0.5), "lora": LoraConfig(rank=2)},
            ValueError,
            "saliency.share 0.5 with lora.rank 2",
        ),
        (
            lambda: {"saliency": SaliencyConfig(share=0.5), "method": "edit"},
            ValueError,
            "method 'edit' with saliency.share",
        ),
        (lambda: {"adversary": ATTACK, "method": "edit"}, ValueError, "method 'edit' with adversary.steps"),
        (
            lambda: {"adversary": AdversaryConfig(radius=1.0)},
            ValueError,
            "adversary.radius 1.0 without adversary",
        ),
        (lambda: {"adversary": AdversaryConfig(steps=-1)}, ValueError, "adversary.steps must be an integer"),
        (lambda: {"adversary": AdversaryConfig(3, "word")}, ValueError, "one of prompt, token, got 'word'"),
        (
            lambda: {"preservation": PreservationConfig(weight=1.0, balance=0.1)},
            ValueError,
            "preservation.balance 0.1 beside preservation.surgery; expected preservation.surgery False",
        ),
        (
            lambda: {"preservation": PreservationConfig(surgery=False, balance=0.1)},
            ValueError,
            "preservation.balance 0.1 without preservation.weight",
        ),
        (
            lambda: {"preservation": PreservationConfig(1.0, "random"), "trainable": "embedding"},
            ValueError,
            "'random' with trainable 'embedding', which changes no random features",
        ),
    ],
)
def test_refused(changes, error, message):
    with pytest.raises(error, match=message):
        UnlearningConfig("sneaker", **changes())


@pytest.mark.parametrize("part", [{"adversary": ATTACK}, {"saliency": SaliencyConfig(share=0.5)}])
def test_first_order_is_of_plain_descent(part, pipe, config):
    with pytest.raises(NotImplementedError, match=r"saliency.share or adversary.steps to first order"):
        check_first_order(prepare(pipe, config(**part)))
