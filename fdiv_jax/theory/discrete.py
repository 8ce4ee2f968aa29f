"""The game in discrete steps: update matrices, the steps that are stable, and the rate per step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, non_negative, positive, positive_integer, real_array, scalar
from fdiv_jax.theory.jacobian import GameSpectrum, game_spectrum

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["Scheme", "discrete_rate", "game_step_limit", "update_matrix"]

Scheme = Literal["simultaneous", "alternating", "extragradient", "optimistic"]
"""How the two players take their steps; see `update_matrix`."""


Momentum = float | tuple[float, float]
"""One number for both players, or (model, critic)."""


@dataclass(frozen=True)
class _Method:
    """The checked arguments that say how steps are taken."""

    scheme: str
    critic_steps: int = 1
    momentum: tuple[float, float] = (0.0, 0.0)
    averaged: bool = False

    @property
    def plain(self) -> bool:
        """Whether both momenta are zero, so that a step needs no buffer."""
        return self.momentum == (0.0, 0.0)

    def gains(self) -> tuple[float, float]:
        """The factors of a gradient in the buffers of model and critic."""
        return tuple(1 - beta if self.averaged else 1.0 for beta in self.momentum)  # pyright: ignore


def _method(scheme: str, critic_steps: int, momentum: Momentum = 0.0, averaged: bool = False) -> _Method:
    if scheme not in get_args(Scheme):
        raise ValueError(f"expected scheme to be one of {', '.join(get_args(Scheme))}; got {scheme!r}")
    count = positive_integer("critic_steps", critic_steps)
    if count > 1 and scheme != "alternating":
        raise ValueError(f"critic_steps = {count} belongs to scheme 'alternating', got {scheme!r}")
    pair = momentum if isinstance(momentum, tuple) else (momentum, momentum)
    if len(pair) != 2:
        raise ValueError(f"expected momentum to be a number or (model, critic), got {momentum!r}")
    model, critic = (scalar("momentum", beta) for beta in pair)
    if not (-1 < model < 1 and -1 < critic < 1):
        raise ValueError(f"expected momentum in (-1, 1), got {momentum}")
    method = _Method(scheme, count, (model, critic), bool(averaged))
    if not method.plain and scheme not in ("simultaneous", "alternating"):
        raise ValueError(f"momentum belongs to schemes 'simultaneous' and 'alternating', got {scheme!r}")
    return method


def update_matrix(
    jacobian: ArrayLike,
    step: float,
    scheme: Scheme = "simultaneous",
    *,
    model_size: int | None = None,
    critic_steps: int = 1,
    momentum: Momentum = 0.0,
    averaged: bool = False,
    preconditioner: ArrayLike | None = None,
    critic_decay: float = 0.0,
) -> Floats:
    """The matrix by which one iteration multiplies the distance (theta, omega) to the equilibrium.

    With J = D^-1 `game_jacobian`, step h, and J_theta, J_omega its model and critic rows (the others zero):

        simultaneous    I + h J
        alternating     (I + h J_theta)(I + h J_omega)^n        n critic steps, then one model step
        extragradient   I + h J + h^2 J^2                       step with the gradient found at z + h J z
        optimistic      [[I + 2 h J, -h J], [I, 0]]    on (z, z_before): z' = z + 2 h J z - h J z_before

    With momentum beta the state is (z, v), and a step of either player is

        v' = beta v + J z,    z' = z + h v'       heavy ball; Adam's own average has (1 - beta) J z instead

    Adam near the equilibrium, where its second moments stand still, is `averaged` momentum b1 with D their
    root (`preconditioned` makes it a game of its own). `critic_decay` is AdamW's: it bypasses D and v.

    Args:
      jacobian: (n, n), model rows first.
      step: h > 0; the speeds a and b are already in the Jacobian.
      scheme: one of the four above.
      model_size: number of model rows; needed where the players are told apart.
      critic_steps: n, for "alternating" only.
      momentum: beta in (-1, 1), one number for both players or (model, critic), for "simultaneous" and
        "alternating".
      averaged: whether the buffer is Adam's average instead of heavy ball's sum.
      preconditioner: D > 0, (n,), by which each row of J is divided.
      critic_decay: lambda >= 0; each critic step also subtracts h lambda omega.

    Returns:
      (n, n), or (2 n, 2 n) for "optimistic" and with momentum.

    Raises:
      ValueError: wrong shapes, an unknown scheme, step not > 0.
      TypeError: not numbers.

    Source: Mescheder et al. 2017; Korpelevich 1976 (extra-gradient); Daskalakis et al. 2018 (optimistic);
    Polyak 1964 and Gidel et al. 2019 (positive and negative momentum); Kingma and Ba 2015 (Adam).

    >>> update_matrix([[0.0, 1.0], [-1.0, -2.0]], 0.1, "alternating", model_size=1)
    array([[ 0.99,  0.08],
           [-0.1 ,  0.8 ]])
    """
    method = _method(scheme, critic_steps, momentum, averaged)
    j = real_array("jacobian", jacobian)
    if j.ndim != 2 or j.shape[0] != j.shape[1]:
        raise ValueError(f"expected a square jacobian, got shape {j.shape}")
    h = positive("step", step)
    n = j.shape[0]
    if preconditioner is not None:
        scale = real_array("preconditioner", preconditioner)
        if scale.shape != (n,) or (scale <= 0).any():
            raise ValueError(f"expected a preconditioner > 0 of shape {(n,)}, got {scale.shape}")
        j = j / scale[:, None]
    decay = float(non_negative("critic_decay", critic_decay))
    if model_size is None:
        alike = method.momentum[0] == method.momentum[1]
        if scheme == "alternating" or decay or not alike:
            raise ValueError(f"expected 0 < model_size < {n} for the alternating scheme, got {model_size}")
    elif not 0 < model_size < n:
        raise ValueError(f"expected 0 < model_size < {n} for the alternating scheme, got {model_size}")
    return _matrix(j, h, method, n if model_size is None else model_size, decay)


def _matrix(j: Floats, h: float, method: _Method, model_size: int, decay: float = 0.0) -> Floats:
    n = j.shape[0]
    eye, zero = np.eye(n), np.zeros((n, n))
    critic = (np.arange(n) >= model_size).astype(float)
    if method.plain:
        j = j - decay * np.diag(critic)
        if method.scheme == "extragradient":
            return eye + h * j + (h * j) @ (h * j)
        if method.scheme == "optimistic":
            return np.block([[eye + 2 * h * j, -h * j], [eye, zero]])

    def play(moves: Floats) -> Floats:
        """One step of the players whose entries of `moves` are 1."""
        if method.plain:
            return eye + h * moves[:, None] * j
        beta, gain = (np.where(critic > 0, c, m) * moves for m, c in (method.momentum, method.gains()))
        force, memory = gain[:, None] * j, np.diag(beta)
        return np.block(
            [
                [eye - h * decay * np.diag(critic * moves) + h * force, h * memory],
                [force, np.diag(1 - moves) + memory],
            ]
        )

    if method.scheme == "simultaneous":
        return play(np.ones(n))
    return play(1 - critic) @ np.linalg.matrix_power(play(critic), method.critic_steps)


def _factors(eigenvalues: np.ndarray, h: float, scheme: str) -> np.ndarray:
    """Growth factors per iteration from the eigenvalues of J, for the schemes that are polynomials in J."""
    z = h * eigenvalues
    if scheme == "simultaneous":
        return 1 + z
    if scheme == "extragradient":
        return 1 + z + z**2
    root = np.sqrt((1 + 2 * z) ** 2 - 4 * z)  # mu^2 - (1 + 2 z) mu + z = 0
    return np.concatenate([(1 + 2 * z + root) / 2, (1 + 2 * z - root) / 2])


def _radius(spectrum: GameSpectrum, h: float, method: _Method) -> float:
    """Spectral radius of one iteration on the coupled modes."""
    if method.scheme == "alternating" or not method.plain:
        factors = np.linalg.eigvals(_matrix(spectrum.coupled, h, method, spectrum.model_size))
    else:
        factors = _factors(spectrum.eigenvalues, h, method.scheme)
    return float(np.abs(factors).max())


def discrete_rate(
    d: Divergence | str,
    gram: ArrayLike,
    coupling: ArrayLike,
    step: float,
    *,
    scheme: Scheme = "simultaneous",
    critic_steps: int = 1,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
    critic_penalty: ArrayLike | None = None,
    momentum: Momentum = 0.0,
    averaged: bool = False,
) -> float:
    """Linear rate per iteration: -log of the spectral radius of `update_matrix`, gauge modes left out.

    Per unit of time it is this divided by h, and tends to `game_rate` for small h (heavy ball: to that over
    1 - beta). Negative: the iteration moves away.

    Args:
      step: h > 0.
      scheme, critic_steps, momentum, averaged: as for `update_matrix`.
      d, gram, coupling, model_step, critic_step, activation, critic_penalty: as for `game_jacobian`.

    Returns:
      A float; infinite when one iteration lands on the equilibrium.

    >>> [round(discrete_rate("kl", 0.1, 1.0, 0.3, momentum=beta), 3) for beta in (0.3, 0.0, -0.3)]
    [-0.1, -0.029, -0.003]
    """
    method = _method(scheme, critic_steps, momentum, averaged)
    spectrum = game_spectrum(d, gram, coupling, model_step, critic_step, activation, critic_penalty)
    radius = _radius(spectrum, positive("step", step), method)
    return -math.log(radius) if radius > 0 else math.inf


def _first_positive_root(coefficients: list[float]) -> float:
    """Smallest h > 0 from which the polynomial (constant term first) is positive; 0 when it is so at once."""
    c = np.array(coefficients, float)
    lead = c[np.flatnonzero(c)[0]]
    if lead > 0:
        return 0.0
    roots = np.roots(c[::-1])
    size = max(float(np.abs(roots).max()), 1e-300)
    real = roots.real[(np.abs(roots.imag) < 1e-7 * size) & (roots.real > 1e-14 * size)]
    return float(real.min())


def _polynomial_limit(eigenvalue: complex, scheme: str) -> float:
    """First h at which a growth factor of this eigenvalue leaves the unit circle."""
    r = abs(eigenvalue)
    x, y2 = eigenvalue.real / r, (eigenvalue.imag / r) ** 2
    if scheme == "simultaneous":  # |1 + z|^2 - 1 = h r (2 x + h r)
        return max(0.0, -2 * x) / r
    if (
        scheme == "extragradient"
    ):  # (|1 + z + z^2|^2 - 1) / (h r), with |z|^2 + 2 Re z^2 = h^2 r^2 (3 - 4 y^2)
        return _first_positive_root([2 * x, 3 - 4 * y2, 2 * x, 1.0]) / r
    # Schur-Cohn for mu^2 - (1 + 2 z) mu + z: |1 + z - 2 |z|^2| < 1 - |z|^2
    return _first_positive_root([2 * x, -1.0, -4 * x, 3.0]) / r


def _alternating_limit(damping: Floats, stiffness: Floats) -> float:
    """The h at which the growth factor -1 appears: det(4 - 2 h B - h^2 A) = 0, B = b d Gram, A = a b c K K^T.

    Multiplying out one iteration gives (mu - 1)^2 + (mu - 1) h x*Bx + mu h^2 x*Ax = 0 on an eigenvector x:
    real coefficients with the product of the roots in (-1, 1), so -1 is the only way out of the circle; both
    terms grow with h, so the way out is taken once. 1/h is the largest root nu of det(4 nu^2 - 2 nu B - A).
    """
    n = damping.shape[0]
    companion = np.block([[damping / 2, stiffness / 4], [np.eye(n), np.zeros((n, n))]])
    return 1.0 / float(np.linalg.eigvals(companion).real.max())


def _scanned_limit(spectrum: GameSpectrum, method: _Method, upper: float) -> float:
    """First crossing of the unit circle: 2048 steps on a grid up to `upper`, then bisection."""
    loose = [] if method.plain else spectrum.gauge.tolist()

    def stable(h: float) -> bool:
        matrices = [_matrix(spectrum.coupled, h, method, spectrum.model_size)]
        matrices += [_matrix(np.array([[value]]), h, method, 0) for value in loose]
        factors = np.concatenate([np.linalg.eigvals(matrix) for matrix in matrices])
        # A factor 1 would be a second equilibrium, which only h = upper has: within rounding of 1 there is a
        # slow mode, and it is stable.
        rounding = 1e-13 * max(1.0, float(np.abs(matrices[0]).max()))
        return bool((np.abs(factors[np.abs(factors - 1) > rounding]) < 1.0).all())

    previous = 0.0
    for h in np.linspace(0.0, upper, 2049)[1:]:
        if not stable(h):
            low, high = previous, h
            for _ in range(80):
                middle = (low + high) / 2
                if middle in (low, high):
                    break
                low, high = (middle, high) if stable(middle) else (low, middle)
            return low if low > 1e-7 * upper else 0.0  # below, growth is lost in rounding
        previous = h
    return upper


def game_step_limit(
    d: Divergence | str,
    gram: ArrayLike,
    coupling: ArrayLike,
    *,
    scheme: Scheme = "simultaneous",
    critic_steps: int = 1,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
    critic_penalty: ArrayLike | None = None,
    momentum: Momentum = 0.0,
    averaged: bool = False,
) -> float:
    """Largest h such that every smaller step is stable: spectral radius of `update_matrix` below 1 on (0, h).

    All modes that move count, the gauge modes too: a constant of T that swings apart leaves the range of f*.

        simultaneous    min over lambda of -2 Re(lambda) / |lambda|^2
        alternating     h^2 A + 2 h B reaches the eigenvalue 4, A = a b c K K^T, B = b d Gram; for one mode
                        4 / (beta + sqrt(beta^2 + 4 omega^2)), beta = b d q, omega^2 = a b c k^2
        alternating, n > 1   first crossing of the spectral radius, searched on (0, 2 / (b d q_max)]
        extragradient   first root of 2 x + (3 - 4 y^2) u + 2 x u^2 + u^3
        optimistic      first root of 2 x - u - 4 x u^2 + 3 u^3
        momentum        simultaneous, equal beta, heavy ball: min over lambda = -x + i y of
                        2 x (1 - beta)^2 (1 + beta) / ((1 - beta)^2 x^2 + (1 + beta)^2 y^2);
                        elsewhere the first crossing, searched

    with u = h |lambda| and lambda = |lambda| (x + i y) in extragradient and optimistic.

    Without damping (a kink, d = 0) simultaneous and alternating steps have no stable step: 0.0 (alternating
    steps circle without growing), while extra-gradient is stable up to 1/|lambda| and optimistic up to
    1/(sqrt(3) |lambda|).

    Arguments and errors as for `game_jacobian` and `update_matrix`.

    Returns:
      The limit h >= 0, time.

    >>> [round(game_step_limit("kl", 0.1, 1.0, momentum=beta), 3) for beta in (0.5, 0.0, -0.5)]
    [0.017, 0.1, 0.441]
    """
    method = _method(scheme, critic_steps, momentum, averaged)
    spectrum = game_spectrum(d, gram, coupling, model_step, critic_step, activation, critic_penalty)
    n = spectrum.model_size
    damping = -spectrum.coupled[n:, n:]
    levels = np.linalg.eigvalsh(damping)
    size = float(np.abs(spectrum.eigenvalues).max())
    if not method.plain:
        return _momentum_limit(spectrum, method, size)
    # Positive definite damping leaves no mode undamped, however slow; else the eigenvalues must tell.
    damped = levels[0] > 1e-13 * levels[-1] or spectrum.rate > 1e-13 * size
    if not damped and scheme in ("simultaneous", "alternating"):
        return 0.0
    if scheme != "alternating":
        moving = np.concatenate([spectrum.eigenvalues, spectrum.gauge])
        moving = moving[np.abs(moving) > 1e-13 * size]  # zero to rounding: too slow to limit a step
        if not damped:  # rounding must not decide on which side of the axis an undamped mode lies
            moving = np.where(np.abs(np.real(moving)) <= 1e-13 * size, 1j * np.imag(moving), moving)
        return min(_polynomial_limit(complex(value), scheme) for value in moving)
    gauge_limit = 2.0 / float(np.abs(spectrum.gauge).max()) if spectrum.gauge.size else math.inf
    if critic_steps == 1:
        return min(
            gauge_limit, _alternating_limit(damping, -spectrum.coupled[n:, :n] @ spectrum.coupled[:n, n:])
        )
    return min(gauge_limit, _scanned_limit(spectrum, method, 2.0 / float(levels[-1])))


def _momentum_limit(spectrum: GameSpectrum, method: _Method, size: float) -> float:
    """Simultaneous heavy ball has the factors mu^2 - (1 + beta + h lambda) mu + beta = 0, inside the circle
    by Schur and Cohn's criterion |s - beta conj(s)| < 1 - beta^2, s the bracket."""
    beta, other = method.momentum
    gain = min(method.gains())
    if method.scheme == "simultaneous" and beta == other:
        moving = np.concatenate([spectrum.eigenvalues, spectrum.gauge])
        moving = moving[np.abs(moving) > 1e-13 * size]
        x, y = -np.real(moving), np.imag(moving)
        x = np.where(x <= 1e-13 * size, 0.0, x)
        limits = 2 * x * (1 - beta) ** 2 * (1 + beta) / ((1 - beta) ** 2 * x**2 + (1 + beta) ** 2 * y**2)
        return float(limits.min()) / gain
    # |h lambda| < 4 for every eigenvalue of a heavy ball, and an alternating step reaches twice as far.
    fastest = max(size, float(np.abs(spectrum.gauge).max(initial=0.0)))
    return _scanned_limit(spectrum, method, 8.0 / (gain * fastest))
