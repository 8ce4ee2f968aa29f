"""Minibatch noise: where descent and the game come to rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import (
    Floats,
    blocks,
    finite_curvature_of,
    linearisation,
    positive,
    positive_integer,
    real_array,
)
from fdiv_jax.theory.discrete import Scheme, update_matrix
from fdiv_jax.theory.jacobian import game_jacobian

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["descent_noise", "game_noise", "stationary_covariance"]


def stationary_covariance(update: ArrayLike, noise: ArrayLike) -> Floats:
    """Covariance at which z' = A z + xi comes to rest: Sigma = A Sigma A^T + Q, Q the covariance of xi.

    By doubling: Sigma = sum over n of A^n Q (A^T)^n, twice as many terms each time.

    Args:
      update: A, (n, n), of spectral radius below 1.
      noise: Q, (n, n), symmetric.

    Raises:
      ValueError: wrong shapes, a spectral radius of 1 or more.
      TypeError: not numbers.

    Source: Smith 1968; Anderson 1978 (doubling).

    >>> stationary_covariance([[0.5]], [[3.0]])
    array([[4.]])
    """
    a, q = real_array("update", update), real_array("noise", noise)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or q.shape != a.shape:
        raise ValueError(f"expected update and noise of one square shape, got {a.shape} and {q.shape}")
    radius = float(np.abs(np.linalg.eigvals(a)).max())
    if radius >= 1:
        raise ValueError(f"expected a spectral radius below 1, got {radius}: the noise adds up without end")
    sigma = q
    for _ in range(64):
        more = a @ sigma @ a.T
        sigma = sigma + more
        if np.abs(more).max() <= 1e-17 * np.abs(sigma).max():
            break
        a = a @ a
    return sigma


def _square(name: str, value: ArrayLike, size: int | None = None) -> Floats:
    """A symmetric positive semi-definite matrix; a number stands for 1 x 1, a vector for a diagonal."""
    array = real_array(name, value)
    array = np.diag(array) if array.ndim == 1 else np.atleast_2d(array)
    try:
        array = blocks(array, np.zeros((array.shape[0], 1)))[0]
    except ValueError as error:
        raise ValueError(str(error).replace("gram", name)) from None
    if size is not None and array.shape[0] != size:
        raise ValueError(f"expected {name} of shape ({size}, {size}), got {array.shape}")
    return array


def descent_noise(
    d: Divergence | str,
    kernel: ArrayLike,
    covariance: ArrayLike,
    step: float,
    batch_size: int,
    *,
    metric: ArrayLike | None = None,
    second: ArrayLike | None = None,
) -> float:
    """Where m comes to rest in minibatch descent on D_f: the plateau above the minimum, E[e^T metric e].

    Near the minimum the gradient of one sample is f''(1) (k_i x - b_i), with mean f''(1) H x: a sample's
    kernel k_i = A_i^T A_i / s^2, H = E[k_i], and b_i, E[b_i] = 0, the sample's own pull, of
    covariance S. A batch of B samples gives x' = x - (h f''(1) / B) sum (k_i x - b_i), so with
    g = h f''(1)

        Sigma = (1 - g H) Sigma (1 - g H) + (g^2 / B) (S + E[k_i Sigma k_i] - H Sigma H)

    The last two terms, `second`, come from samples that differ in k_i; with small steps they do not matter.
    One mode and small steps: m = g tr(S) / (2 B), of everything proportional to the step, to f''(1) and to
    1/B: at equal curvature, h f''(1), all smooth f have the same plateau.

    Args:
      d: the divergence, or its name or expression.
      kernel: H, (n, n), or its eigenvalues (n,), or a number; > 0.
      covariance: S, that of one sample's kl gradient, of the same shape as `kernel` or (n, n).
      step: h > 0.
      batch_size: B >= 1 samples, drawn with replacement.
      metric: the matrix in m = E[x^T metric x], (n, n); H where not given.
      second: the matrix of Sigma -> E[k_i Sigma k_i] on vec(Sigma), E[k_i (x) k_i], (n^2, n^2).

    Returns:
      The plateau of m, a float >= 0.

    Raises:
      ValueError: wrong shapes; a kink (no linear rate); a step at which noise grows.
      TypeError: not numbers.

    >>> round(descent_noise("kl", 1.0, 0.5, 0.01, 16), 7)      # h S / (2 B) = 1.5625e-4, and 1/(1 - h/2)
    0.000157
    """
    gain = positive("step", step) * finite_curvature_of(d)
    count = positive_integer("batch_size", batch_size)
    h = _square("kernel", kernel)
    n = h.shape[0]
    s = _square("covariance", covariance, n)
    update = np.eye(n) - gain * h
    seen = h if metric is None else _square("metric", metric, n)
    if second is None:
        sigma = stationary_covariance(update, gain**2 / count * s)
    else:
        pairs = real_array("second", second)
        if pairs.shape != (n * n, n * n):
            raise ValueError(f"expected second of shape {(n * n, n * n)}, got {pairs.shape}")
        sigma = resting_covariance(h, s, gain, count, lambda now: (pairs @ now.ravel()).reshape(n, n))
    return float(np.sum(seen * sigma))


def resting_covariance(
    h: Floats, s: Floats, gain: float, batch_size: int, second: Callable[[Floats], Floats]
) -> Floats:
    """Sigma of `descent_noise`, where samples differ in k_i: `second` is Sigma -> E[k_i Sigma k_i].

    Without that difference the equation is solved entry by entry in the eigenvectors of H. What it adds is a
    positive map of Sigma, so that putting it in again and again from 0 rises to the solution exactly where
    noise dies out.
    """
    k, u = np.linalg.eigh(h)
    left = 1 - np.outer(1 - gain * k, 1 - gain * k)
    message = "expected a step at which noise dies out"
    if left.diagonal().min() <= 0:
        raise ValueError(f"{message}, got one beyond the limit {2 / k[-1]:.6g} / f''(1) without noise")
    sigma = np.zeros_like(h)
    for _ in range(10_000):
        noise = gain**2 / batch_size * (s + second(sigma) - h @ sigma @ h)
        before, sigma = sigma, u @ ((u.T @ noise @ u) / left) @ u.T
        if np.abs(sigma - before).max() <= 1e-12 * np.abs(sigma).max():
            return sigma
        if not np.abs(sigma).max() < 1e200:
            break
    raise ValueError(f"{message}, got one at which it grows: {gain:.6g} = step x f''(1)")


def game_noise(
    d: Divergence | str,
    gram: ArrayLike,
    coupling: ArrayLike,
    step: float,
    batch_size: int,
    *,
    feature_covariance: ArrayLike,
    metric: ArrayLike | None = None,
    model_step: float = 1.0,
    critic_step: float = 1.0,
    activation: bool = False,
    critic_penalty: ArrayLike | None = None,
    scheme: Scheme = "simultaneous",
    **method: Any,
) -> float:
    """Where m comes to rest in the minibatch game: E[theta^T metric theta].

    At the equilibrium the critic's gradient on one pair of samples is g'(v0) (phi(x_P) - phi(x_Q)), phi the
    gradient of v, for every f: its covariance is 2 g'^2 C, C the covariance of phi. The model's gradient
    vanishes there with the slope of T. So Sigma = U Sigma U^T + (h b)^2 (2 g'^2 / B) diag(0, C) with U the
    update matrix. For one mode and small steps

        m = h a C f''(1) / (B q),

    for every coupling, critic's speed and activation: **the plateau rises with f''(1)**, so
    squared_hellinger and jensen_shannon rest at half the m of kl and a quarter of that of pearson_chi2.

    Args:
      d: the divergence, or its name or expression.
      gram: E[phi phi^T], as for `game_jacobian`, without idle directions.
      coupling: K, as for `game_jacobian`.
      step: h > 0.
      batch_size: B >= 1 pairs per step.
      feature_covariance: C = Gram - E[phi] E[phi]^T, (n_omega, n_omega) or a number.
      metric: (n_theta, n_theta); the identity where not given.
      model_step, critic_step, activation, critic_penalty: as for `game_jacobian`.
      scheme, method: "simultaneous" (with momentum and averaged, as for `update_matrix`) or "alternating".

    Returns:
      The plateau of m, a float >= 0.

    Raises:
      ValueError: wrong shapes, an unstable step, a scheme whose noise is not known.
      TypeError: not numbers.

    >>> [round(game_noise(d, 1.0, 1.0, 0.001, 10, feature_covariance=1.0), 6)
    ...  for d in ("squared_hellinger", "kl", "pearson_chi2")]
    [5e-05, 0.0001, 0.0002]
    """
    if scheme not in ("simultaneous", "alternating") or method.get("critic_steps", 1) != 1:
        raise ValueError(
            f"expected simultaneous steps, or alternating ones with one critic step each; got {scheme!r}"
        )
    if scheme == "alternating" and method.get("momentum", 0.0) != 0.0:
        raise ValueError("expected no momentum with alternating steps")
    b, h = positive("critic_step", critic_step), positive("step", step)
    lin = linearisation(d, activation)
    j = game_jacobian(d, gram, coupling, model_step, b, activation, critic_penalty)
    c = _square("feature_covariance", feature_covariance)
    n_omega = c.shape[0]
    n_theta = j.shape[0] - n_omega
    matrix = update_matrix(j, h, scheme, model_size=n_theta, **method)
    force = np.zeros_like(j)
    force[n_theta:, n_theta:] = b**2 * 2 * lin.coupling / positive_integer("batch_size", batch_size) * c
    # How a random force on the critic enters one iteration's state.
    if matrix.shape != j.shape:
        _, critic = _pair(method.get("momentum", 0.0))
        gain = 1 - critic if method.get("averaged", False) else 1.0
        enters = np.vstack([h * gain * np.eye(j.shape[0]), gain * np.eye(j.shape[0])])
    elif scheme == "alternating":  # the model steps after it
        enters = h * np.eye(j.shape[0])
        enters[:n_theta] += h * h * j[:n_theta]
    else:
        enters = h * np.eye(j.shape[0])
    sigma = stationary_covariance(matrix, enters @ force @ enters.T)
    seen = np.eye(n_theta) if metric is None else _square("metric", metric, n_theta)
    return float(np.sum(seen * sigma[:n_theta, :n_theta]))


def _pair(momentum: float | tuple[float, float]) -> tuple[float, float]:
    return momentum if isinstance(momentum, tuple) else (momentum, momentum)
