"""The losses: against numerical integration, finite differences and each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.divergences import divergence
from fdiv_jax.unlearning import (
    ConvolutionalCritic,
    CriticConfig,
    SquaredDistance,
    ascend,
    make_loss,
)
from fdiv_jax.unlearning.losses import switch_losses
from tests.tiny import SCHEDULER

SCHEDULE = NoiseSchedule.from_config(SCHEDULER)
SMALL_CRITIC = CriticConfig(warmup=0, hidden_channels=(6, 6), head_channels=8, learning_rate=1e-3)

# f'' by hand: nothing below comes from the library.
SECOND = {
    "kl": lambda t: 1 / t,
    "reverse_kl": lambda t: 1 / t**2,
    "jeffreys": lambda t: (t + 1) / t**2,
    "squared_hellinger": lambda t: t**-1.5 / 2,
    "pearson_chi2": lambda t: 2.0,
    "neyman_chi2": lambda t: 2 / t**3,
    "alpha(0.3)": lambda t: t**-1.7,
    "jensen_shannon": lambda t: 1 / (t * (t + 1)),
    "gan": lambda t: 1 / (t * (t + 1)),
    "le_cam": lambda t: 8 / (t + 1) ** 3,
    "t*log(t)": lambda t: 1 / t,
}
CLOSED = ("kl", "reverse_kl", "jeffreys", "squared_hellinger", "pearson_chi2", "neyman_chi2", "alpha(0.3)")
DIRECT = [(name, "closed") for name in CLOSED] + [
    # One of the three whose weight has no closed form is in the fast tests.
    pytest.param(name, "exact", marks=[pytest.mark.slow] * (name in ("gan", "le_cam")))
    for name in SECOND
]


def loss_of(name, family, **options):
    return make_loss(name, family, schedule=SCHEDULE, latent_shape=(8, 8, 4), critic=SMALL_CRITIC, **options)


@pytest.fixture(scope="module")
def critic():
    """The state of a small critic in float64; it does not depend on the divergence."""
    with jax.enable_x64(True):
        return loss_of("kl", "variational").critic.initial(jax.random.key(0))


def weight_by_integration(second, m):
    """w_f(m) = E_Q[r^2 f''(r)], log r ~ N(-m/2, m)."""

    def integrand(z):
        r = np.exp(-m / 2 + np.sqrt(m) * z)
        return r**2 * second(r) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    return quad(integrand, -12, 12 + 2 * np.sqrt(m), limit=200, epsabs=1e-12, epsrel=1e-11)[0]


def distance_by_hand(c, scale):
    """m with numpy, the kernels' weight from DDPM's formula for the noise prediction."""
    reference, prediction, mask = (np.asarray(x, np.float64) for x in c[:3])
    total = (((prediction - reference) ** 2).sum(-1) * mask).sum((1, 2))
    if scale == "mean":
        return total / mask.sum((1, 2))
    if scale == "sum":
        return total
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = 1 - betas
    bar = np.cumprod(alphas)
    before = np.concatenate([[1.0], bar[:-1]])
    variance = betas * (1 - before) / (1 - bar)
    variance[0] = variance[1]
    return total * (betas**2 / (alphas * (1 - bar) * variance))[np.asarray(c.timesteps)]


@pytest.mark.parametrize("scale", ["mean", "sum", "schedule"])
def test_m_is_what_its_name_says(scale, comparison):
    c = comparison(n=5)
    np.testing.assert_allclose(SquaredDistance(SCHEDULE, scale)(c), distance_by_hand(c, scale), rtol=2e-4)


def test_m_counts_only_under_the_mask(comparison):
    c = comparison()
    elsewhere = c._replace(prediction=c.prediction + 5.0 * (1 - c.mask)[..., None])
    np.testing.assert_allclose(
        SquaredDistance(SCHEDULE, "mean")(c), SquaredDistance(SCHEDULE, "mean")(elsewhere), rtol=1e-5
    )
    nothing = c._replace(mask=jnp.zeros_like(c.mask))
    np.testing.assert_array_equal(SquaredDistance(SCHEDULE, "mean")(nothing), 0.0)


@pytest.mark.parametrize(("name", "family"), DIRECT)
def test_the_gradient_is_half_the_weight_times_that_of_m(name, family, comparison, x64):
    """grad mean D_f = mean (1/2) w_f(m) grad m, with w_f by integration and grad m by hand."""
    c, o = comparison(spread=0.6), loss_of(name, family)
    gradient = jax.grad(lambda output: o.value(c._replace(prediction=output)))(c.prediction)
    m = distance_by_hand(c, "mean")
    weights = np.array([weight_by_integration(SECOND[name], value) for value in m])
    mask = np.asarray(c.mask)
    grad_m = 2 * np.asarray(c.prediction - c.reference) * (mask / mask.sum((1, 2), keepdims=True))[..., None]
    expected = 0.5 * weights[:, None, None, None] * grad_m / len(m)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(o.weight(jnp.asarray(m)), weights, rtol=1e-8)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, "closed") for name in (*CLOSED, "total_variation")),
        *((name, "exact") for name in ("jensen_shannon", "t**2 - 1")),
        *(pytest.param(name, "exact", marks=pytest.mark.slow) for name in ("le_cam", "total_variation")),
        *((name, "variational") for name in ("kl", "jensen_shannon")),
        *(
            pytest.param(name, "variational", marks=pytest.mark.slow)
            for name in (
                "squared_hellinger",
                "pearson_chi2",
                "reverse_kl",
                "gan",
                "jeffreys",
                "neyman_chi2",
                "total_variation",
            )
        ),
    ],
)
def test_the_gradient_is_that_of_finite_differences(name, family, comparison, critic, x64):
    c, o = comparison(spread=0.5), loss_of(name, family)
    state = critic if family == "variational" else None
    look = jax.jit(jax.value_and_grad(lambda output: o.value(c._replace(prediction=output), state)))
    at, gradient = np.asarray(c.prediction), look(c.prediction)[1]
    direction = np.random.default_rng(1).standard_normal(at.shape)
    direction /= np.linalg.norm(direction)
    h = 1e-4
    slope = float(look(at + h * direction)[0] - look(at - h * direction)[0]) / (2 * h)
    assert abs(slope) > 1e-6
    np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0])
def test_exact_equals_closed(name, spread, comparison, x64):
    c = comparison(spread=spread)
    closed, exact = (
        jax.value_and_grad(lambda output, o=o: o.value(c._replace(prediction=output)))(c.prediction)
        for o in (loss_of(name, "closed"), loss_of(name, "exact"))
    )
    np.testing.assert_allclose(exact[0], closed[0], rtol=1e-6)
    np.testing.assert_allclose(exact[1], closed[1], rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("name", CLOSED)
def test_exact_equals_closed_in_float32(name, comparison):
    c = comparison(spread=0.5)
    closed, exact = (
        jax.value_and_grad(lambda output, o=o: o.value(c._replace(prediction=output)))(c.prediction)
        for o in (loss_of(name, "closed"), loss_of(name, "exact"))
    )
    assert exact[0].dtype == jnp.float32
    np.testing.assert_allclose(exact[0], closed[0], rtol=1e-5)
    np.testing.assert_allclose(exact[1], closed[1], rtol=2e-5, atol=1e-9)


def test_closed_kl_is_half_the_squared_error(comparison, x64):
    c = comparison(masked=False)
    error = ((np.asarray(c.prediction) - np.asarray(c.reference)) ** 2).sum(-1).mean()
    np.testing.assert_allclose(loss_of("kl", "closed").value(c), error / 2, rtol=1e-12)


@pytest.mark.parametrize("name", ["squared_hellinger", "jensen_shannon", "pearson_chi2"])
def test_losses_are_finite_and_flat_at_the_equilibrium(name, comparison):
    c = comparison(spread=0.0)
    value, gradient = jax.value_and_grad(
        lambda output: loss_of(name, "exact").value(c._replace(prediction=output))
    )(c.prediction)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_at_equal_curvature_small_distances_cost_the_same(comparison, x64):
    c = comparison(spread=1e-3)
    values = [
        float(loss_of(name, "exact", normalise_curvature=True).value(c))
        for name in ("kl", "pearson_chi2", "squared_hellinger", "jensen_shannon", "le_cam")
    ]
    np.testing.assert_allclose(values, distance_by_hand(c, "mean").mean() / 2, rtol=1e-4)
    far = comparison(spread=1.0)
    o, plain = (
        loss_of("pearson_chi2", "closed", normalise_curvature=True),
        loss_of("pearson_chi2", "closed"),
    )
    np.testing.assert_allclose(2 * o.value(far), plain.value(far), rtol=1e-12)
    m = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(2 * o.weight(m), plain.weight(m), rtol=1e-12)


# V and the generator's loss -E_Q[f*(g(v))] by hand, from the table of f-GAN.
VARIATIONAL = {
    "kl": (lambda v: v, lambda v: jnp.exp(v - 1)),
    "squared_hellinger": (lambda v: 1 - jnp.exp(-v), lambda v: jnp.exp(v) - 1),
    "jensen_shannon": (
        lambda v: jnp.log(2.0) - jnp.logaddexp(0, -v),
        lambda v: -jnp.log(2 - 2 / (1 + jnp.exp(-v))),
    ),
    "pearson_chi2": (lambda v: v, lambda v: jnp.where(v > -2, v**2 / 4 + v, -1.0)),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("kl", "jensen_shannon"))) for n in VARIATIONAL],
)
def test_the_variational_loss_is_the_game(name, comparison, critic, x64):
    c, o, state = comparison(), loss_of(name, "variational"), critic
    activated, conjugate = VARIATIONAL[name]

    def generator(output):
        v_p, v_q = o.critic.scores(state.weights, state.spectral, c._replace(prediction=output))
        return -jnp.mean(conjugate(v_q)), jnp.mean(activated(v_p)) - jnp.mean(conjugate(v_q))

    look = jax.jit(jax.value_and_grad(lambda output: o.value(c._replace(prediction=output), state)))
    value, gradient = look(c.prediction)
    by_hand, expected = jax.jit(jax.grad(generator, has_aux=True))(c.prediction)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-8, atol=1e-12)


def test_a_critic_on_x0_sees_what_the_predictions_stand_for(comparison, critic, x64):
    """x_0 = (x_t - sqrt(1 - abar_t) e) / sqrt(abar_t), both critics of the same weights."""
    c = comparison()
    c = c._replace(noised=jnp.asarray(np.random.default_rng(1).standard_normal(c.prediction.shape)))
    bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[np.asarray(c.timesteps)]
    bar = bar[:, None, None, None]
    stands_for = [(c.noised - np.sqrt(1 - bar) * e) / np.sqrt(bar) for e in (c.reference, c.prediction)]
    sees = dataclasses.replace(SMALL_CRITIC, sees="x0")
    on_x0 = make_loss("kl", "variational", schedule=SCHEDULE, latent_shape=(8, 8, 4), critic=sees)
    by_hand = c._replace(reference=stands_for[0], prediction=stands_for[1])
    found = on_x0.critic.scores(critic.weights, critic.spectral, c)
    expected = loss_of("kl", "variational").critic.scores(critic.weights, critic.spectral, by_hand)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'x0' needs the noise schedule"):
        ConvolutionalCritic((8, 8, 4), sees)


@pytest.mark.parametrize("name", VARIATIONAL)
def test_the_non_saturating_loss(name, comparison, critic, x64):
    """-E_Q[T] for the model; the critic's game is as it was."""
    c = comparison()
    settings = dataclasses.replace(SMALL_CRITIC, generator="non-saturating")
    o = make_loss(name, "variational", schedule=SCHEDULE, latent_shape=(8, 8, 4), critic=settings)
    _, v_q = o.critic.scores(critic.weights, critic.spectral, c)
    activated, _ = VARIATIONAL[name]
    np.testing.assert_allclose(o.value(c, critic), -jnp.mean(activated(v_q)), rtol=1e-9, atol=1e-12)
    value = o.payoff(*o.critic.scores(critic.weights, critic.spectral, c))
    np.testing.assert_allclose(value, loss_of(name, "variational").value(c, critic), rtol=1e-9, atol=1e-12)


def test_the_critic_ascends(comparison, critic, x64):
    c, o = comparison(n=8, spread=2.0), loss_of("jensen_shannon", "variational")
    learn = jax.jit(lambda state, c: ascend(o, state, c))
    state, values = critic, []
    for _ in range(20):
        state, figures = learn(state, c)
        values.append(float(figures["critic_value"]))
    assert np.isfinite(values).all()
    assert values[-1] > values[0] + 0.01
    before, after = jax.tree.leaves(critic.spectral), jax.tree.leaves(state.spectral)
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(before, after, strict=True)]
    assert all(np.any(a != b) for a, b in pairs if a.size > 1)  # the power iteration goes on


@pytest.mark.slow
def test_several_critic_steps_are_as_many_single_ones(comparison, critic, x64):
    c = comparison()
    game = loss_of("kl", "variational")
    before = [np.array(leaf) for leaf in jax.tree.leaves(critic)]
    two = dataclasses.replace(game.critic, config=dataclasses.replace(SMALL_CRITIC, steps=2))
    twice = ascend(game, ascend(game, critic, c)[0], c)[0]
    at_once, _ = ascend(dataclasses.replace(game, critic=two), critic, c)
    for a, b in zip(before, jax.tree.leaves(critic), strict=True):
        np.testing.assert_array_equal(a, b)  # a state is not changed, a new one is made
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(at_once), strict=True):
        np.testing.assert_array_equal(a, b)


def test_closed_and_exact_are_one_loss():
    """Equal losses share a compiled step, so that runs do."""
    assert loss_of("kl", "exact") == loss_of("kl", "closed")
    assert hash(loss_of("kl", "exact")) == hash(loss_of("kl", "closed"))
    assert hash(loss_of("kl", "variational")) == hash(loss_of("kl", "variational"))
    different = [
        loss_of("kl", "exact"),
        loss_of("le_cam", "exact"),
        loss_of("kl", "variational"),
        loss_of("kl", "exact", sigma=2.0),
        loss_of("pearson_chi2", "exact"),
        loss_of("pearson_chi2", "exact", normalise_curvature=True),
    ]
    assert len(set(different)) == len(different)


def test_a_formula_has_no_critic_and_a_game_needs_its_state(comparison):
    assert loss_of("kl", "closed").game is None
    game = loss_of("kl", "variational")
    assert game.game is game
    with pytest.raises(ValueError, match="without the state of its critic"):
        game.value(comparison())


@pytest.mark.parametrize("scale", ["mean", "sum", "schedule"])
def test_sigma_divides_m_by_its_square(scale, comparison, x64):
    c = comparison()
    m = SquaredDistance(SCHEDULE, scale, 0.7)(c)
    np.testing.assert_allclose(m, distance_by_hand(c, scale) / 0.49, rtol=2e-4)


def test_the_authors_formulas(comparison, x64):
    """Up to a constant and a factor: -exp(-m/8) of their code is sigma 1, -exp(-m) of their README is sigma
    8^(-1/2), and exp(m) is Pearson's chi2."""
    c = comparison(spread=0.5)
    m = distance_by_hand(c, "mean")
    code = loss_of("squared_hellinger", "closed").value(c)
    readme = loss_of("squared_hellinger", "closed", sigma=8**-0.5).value(c)
    np.testing.assert_allclose(code, np.mean(2 - 2 * np.exp(-m / 8)), rtol=1e-10)
    np.testing.assert_allclose(readme, np.mean(2 - 2 * np.exp(-m)), rtol=1e-10)
    np.testing.assert_allclose(loss_of("pearson_chi2", "closed").value(c), np.mean(np.exp(m) - 1), rtol=1e-10)


SWITCHED = ("kl", "squared_hellinger", "jensen_shannon")


@pytest.mark.parametrize("family", ["exact", pytest.param("variational", marks=pytest.mark.slow)])
def test_one_loss_for_several_divergences(family, comparison, critic, x64):
    """Values, gradients and weights are those of the single losses, at equal curvature too."""
    c, state = comparison(), critic if family == "variational" else None
    single = [loss_of(name, family, normalise_curvature=True) for name in SWITCHED]
    switched, choices = switch_losses([*single, single[0]])
    assert choices == (0, 1, 2, 0)

    @jax.jit
    def look(choice, output):
        loss = switched.at(choice)
        value = jax.value_and_grad(lambda output: loss.value(c._replace(prediction=output), state))(output)
        return value, loss.weight(jnp.asarray([0.1, 2.0]))

    for one, choice in zip(single, choices, strict=False):
        (value, gradient), weight = look(jnp.asarray(choice), c.prediction)
        expected = jax.value_and_grad(
            lambda output, one=one: one.value(c._replace(prediction=output), state)
        )(c.prediction)
        np.testing.assert_allclose(value, expected[0], rtol=1e-12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(weight, one.weight(jnp.asarray([0.1, 2.0])), rtol=1e-12)


def test_what_cannot_be_one_loss_is_refused(comparison):
    kl, le_cam = loss_of("kl", "exact"), loss_of("le_cam", "exact")
    with pytest.raises(ValueError, match="differ in more than the divergence"):
        switch_losses([kl, loss_of("kl", "exact", scale="sum")])
    assert switch_losses([kl, kl]) == (kl, (0, 0))
    assert kl.at(None) is kl
    both, _ = switch_losses([kl, le_cam])
    with pytest.raises(ValueError, match="for 2 divergences without a choice"):
        both.at(None)
    with pytest.raises(ValueError, match="expected `at` first"):
        both.value(comparison())


@pytest.mark.wrong_types
def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"no closed form.*'exact'"):
        loss_of("jensen_shannon", "closed")
    with pytest.raises(ValueError, match=r"curvature.*infinite"):
        loss_of("total_variation", "exact", normalise_curvature=True)
    with pytest.raises(ValueError, match="one of closed, exact, variational"):
        loss_of("kl", "dual")
    with pytest.raises(ValueError, match=r"4 x 4.*at least 8 x 8"):
        make_loss("kl", "variational", schedule=SCHEDULE, latent_shape=(4, 4, 4))
    with pytest.raises(ValueError, match="one of mean, sum, schedule, got 'median'"):
        SquaredDistance(SCHEDULE, "median")
    with pytest.raises(ValueError, match="sigma must be a finite number > 0, got 0"):
        SquaredDistance(SCHEDULE, sigma=0)
    assert divergence("kl").closed_form is not None
