"""What f''(1) does not say: the noise of the gradient of f, and how far two divergences differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fdiv_jax.theory._inputs import Floats, as_divergence, finite_curvature_of, non_negative, positive

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

__all__ = ["Near", "gradient_noise", "nearest", "weight_distance"]

_POINTS = 33


def gradient_noise(d: Divergence | str, m: ArrayLike, moved: Literal["P", "Q"] = "P") -> Floats:
    """Relative variance of the variational gradient: of one sample's share, over its squared mean.

    With the best critic T = f'(r), r = dP/dQ, a sample x of P that moves with the mean of P has the gradient
    r f''(r) grad log r, one of Q that moves with that of Q has r^2 f''(r) grad log r; both have the mean
    w_f(m) grad log r, and grad log r is the same everywhere between Gaussians of one covariance. So

        E_P[(r f'')^2] / w^2 - 1     (P moves),        E_Q[(r^2 f'')^2] / w^2 - 1     (Q moves),

    which for f'' = t^(a-2) are e^((a-1)^2 m) - 1 and e^(a^2 m) - 1: kl has no noise at all where P moves,
    reverse_kl none where Q does. A batch of n divides both by n.

    Args:
      d: the divergence, or its name or expression.
      m: squared distances m >= 0, any shape.
      moved: whose mean is trained.

    Returns:
      An array of the shape of m; inf where float64 does not hold it, nan where f has a kink: there the
      critic jumps and the gradient of its value is not that of the divergence.

    Raises:
      ValueError: negative m, another `moved`.
      TypeError: not numbers.

    >>> gradient_noise("pearson_chi2", 1.0).round(6) == np.expm1(1.0).round(6)
    np.True_
    """
    from fdiv_jax.divergences import gaussian_log_moment

    d, points = as_divergence(d), non_negative("m", m)
    if moved not in ("P", "Q"):
        raise ValueError(f"expected moved to be 'P' or 'Q', got {moved!r}")
    inside = np.where(points > 0, points, 1.0)
    second = gaussian_log_moment(d, inside, 2, -1.0 if moved == "P" else 0.0)
    with np.errstate(over="ignore"):
        noise = np.expm1(np.maximum(second - 2 * gaussian_log_moment(d, inside), 0.0))
    return np.where(points > 0, noise, 0.0 * noise)


def weight_distance(d: Divergence | str, other: Divergence | str, m_max: float = 9.0) -> float:
    """How far two divergences differ at equal curvature: the largest |log w/w(0) - log w'/w'(0)| up to m_max.

        sup over 0 < m <= m_max of |log(w_f(m)/f''(1)) - log(w_g(m)/g''(1))|

    Descent with the one then runs between e^-x and e^x times as fast as with the other, x the distance. It is
    0 for f and c f + a (t - 1), and for t f(1/t), which have the same weights up to a factor.

    Args:
      d, other: divergences, or their names or expressions.
      m_max: the largest squared distance that counts, > 0.

    Returns:
      A float >= 0, from 32 values of m equally spaced in sqrt(m).

    Raises:
      ValueError: f''(1) of one of them is 0 or infinite; m_max not > 0.

    >>> round(weight_distance("kl", "squared_hellinger"), 6)   # w = e^(-m/8)/2: 9/8
    1.125
    """
    a, b = (_log_shape(as_divergence(x), m_max) for x in (d, other))
    return float(np.max(np.abs(a - b)))


def _log_shape(d: Divergence, m_max: float) -> Floats:
    from fdiv_jax.divergences import gaussian_log_moment

    root = np.linspace(0.0, np.sqrt(positive("m_max", m_max)), _POINTS)[1:]
    return gaussian_log_moment(d, root**2) - np.log(finite_curvature_of(d))


class Near(NamedTuple):
    """A named divergence and its `weight_distance`."""

    name: str
    distance: float


def nearest(
    d: Divergence | str, among: Iterable[Divergence | str] | None = None, m_max: float = 9.0
) -> tuple[Near, ...]:
    """The divergences whose weights are closest to those of d at equal curvature, the closest first.

    Args:
      d: the divergence, or its name or expression.
      among: those to compare with, by default the catalogue. Any with f''(1) = 0 or infinite is left out.
      m_max: as for `weight_distance`.

    Raises:
      ValueError: as `weight_distance`.

    >>> nearest("alpha(0.45)")[0].name
    'squared_hellinger'
    """
    from fdiv_jax.divergences import catalogue

    own = _log_shape(as_divergence(d), m_max)
    others = [as_divergence(x) for x in (catalogue().values() if among is None else among)]
    found = [
        Near(x.name, float(np.max(np.abs(own - _log_shape(x, m_max)))))
        for x in others
        if 0 < float(x.curvature) < np.inf
    ]
    return tuple(sorted(found, key=lambda near: near.distance))
