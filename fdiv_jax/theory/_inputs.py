"""Checks of arguments, and what a divergence contributes to the linearised game."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from fdiv_jax.divergences import Divergence

Floats = NDArray[np.float64]
FloatOrFloats = Any
"""A float where all arguments are numbers, else an array, as NumPy's functions give."""


class Linearisation(NamedTuple):
    """The game linearised at the equilibrium: `relaxation` d, `slope` g'(v0), `coupling` c = slope^2."""

    relaxation: float
    slope: float

    @property
    def coupling(self) -> float:
        return self.slope**2


def as_divergence(d: Divergence | str) -> Divergence:
    """`d` itself, or the divergence that a name or an expression stands for."""
    if isinstance(d, str):
        from fdiv_jax.divergences import divergence

        return divergence(d)
    if not hasattr(d, "curvature"):
        raise TypeError(
            f"expected a Divergence, a catalogue name or an expression in t; got {type(d).__name__}"
        )
    return d


def curvature_of(d: Divergence | str) -> float:
    """f''(1) as a float: positive, or infinite, as at a kink."""
    d = as_divergence(d)
    name = getattr(d, "name", "the divergence")
    try:
        value = float(d.curvature)
    except TypeError:
        raise ValueError(f"{name}: expected a real curvature f''(1), got {d.curvature}") from None
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name}: expected a curvature f''(1) > 0, got {d.curvature}")
    if value == 0:
        raise ValueError(
            f"{name}: f''(1) = 0, the divergence is flat to second order at its minimum, so the game has no "
            "linearisation there and no linear rate"
        )
    return value


def finite_curvature_of(d: Divergence | str) -> float:
    """f''(1), refusing an infinite one."""
    value = curvature_of(d)
    if math.isinf(value):
        raise ValueError(
            f"{getattr(d, 'name', d)}: f''(1) is infinite, so descent on the divergence "
            "has no linear rate and no stable step"
        )
    return value


def linearisation(d: Divergence | str, activation: bool) -> Linearisation:
    """(d, g'(v0)): d = 1/f''(1) and slope 1 for T = v; d = g'(v0)^2/f''(1) for T = g(v); 0 at a kink.

    Where f'' jumps at 1, f*'' jumps as well; d is the reciprocal of the mean, and rates are of the mean.
    """
    d = as_divergence(d)
    curvature = curvature_of(d)
    if hasattr(d, "slopes") and d.equilibrium_slope == d.slopes[1]:
        raise ValueError(
            f"{d.name}: f is linear beyond t = 1, so the critic's equilibrium s0 = f'(1) = "
            f"{d.equilibrium_slope} is the end of f*'s domain, beyond which the game is -oo: no linear rate"
        )
    if not activation:
        return Linearisation(1.0 / curvature, 1.0)
    slope = float(d.activation_slope)
    if not (math.isfinite(slope) and slope > 0):
        raise ValueError(
            f"{getattr(d, 'name', 'the divergence')}: expected an activation slope g'(v0) > 0, got {slope}"
        )
    return Linearisation(slope**2 / curvature, slope)


def positive(name: str, value: ArrayLike) -> float:
    """A finite float > 0."""
    number = scalar(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"expected {name} to be finite and > 0, got {number}")
    return number


def positive_integer(name: str, value: object) -> int:
    """An integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"expected {name} to be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"expected {name} >= 1, got {value}")
    return int(value)


def scalar(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes, bool)) or np.ndim(value) != 0:
        raise TypeError(f"expected {name} to be a real number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"expected {name} to be a real number, got {value!r}") from None


def real_array(name: str, value: ArrayLike) -> Floats:
    """A float64 array with finite entries."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise TypeError(f"expected {name} to be real numbers, got dtype {array.dtype}")
    array = array.astype(np.float64)
    if array.size == 0:
        raise ValueError(f"expected {name} to have entries, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"expected {name} to be finite, got nan or infinity")
    return array


def non_negative(name: str, value: ArrayLike) -> Floats:
    array = real_array(name, value)
    if (array < 0).any():
        raise ValueError(f"expected {name} >= 0, got {array.min()}")
    return array


def precision(value: ArrayLike) -> float:
    """Machine epsilon of the numbers as given: a float32 network gives blocks with float32 noise."""
    dtype = np.asarray(value).dtype
    if dtype.kind == "f":
        return float(np.finfo(dtype).eps)
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(np.float64).eps)


def blocks(gram: ArrayLike, coupling: ArrayLike) -> tuple[Floats, Floats]:
    """Gram, symmetric and positive semi-definite, and K (n_omega, n_theta); a number stands for 1 x 1."""
    tolerance = np.sqrt(precision(gram))
    matrices = []
    for name, value in (("gram", gram), ("coupling", coupling)):
        array = real_array(name, value)
        if array.ndim not in (0, 2):
            raise ValueError(
                f"expected {name} to be a matrix or a number, got shape {array.shape}; write vector[:, None] "
                "for one column, numpy.diag(vector) for separate modes"
            )
        matrices.append(np.atleast_2d(array))
    g, k = matrices
    if g.shape[0] != g.shape[1]:
        raise ValueError(f"expected a square gram, got shape {g.shape}")
    if k.shape[0] != g.shape[0]:
        raise ValueError(
            f"expected coupling of shape (n_omega, n_theta), n_omega = {g.shape[0]} as in gram; got {k.shape}"
        )
    scale = float(np.abs(g).max())
    if np.abs(g - g.T).max() > tolerance * scale:
        raise ValueError(
            f"expected a symmetric gram, got one with |gram - gram^T| up to {np.abs(g - g.T).max():.3g}"
        )
    g = (g + g.T) / 2
    smallest = float(np.linalg.eigvalsh(g)[0])
    if smallest < -tolerance * scale:
        raise ValueError(f"expected a positive semi-definite gram, got the eigenvalue {smallest:.6g}")
    return g, k
