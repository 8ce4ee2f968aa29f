"""Output activations g: R -> dom f*, increasing, and the point v0 = g^-1(s0)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import sympy

from fdiv_jax.divergences._exact import tidy_number

if TYPE_CHECKING:
    import jax

V = sympy.Symbol("v", real=True)


@dataclass(frozen=True)
class Activation:
    """An increasing map of the real line into (lower, upper).

    kind: "identity"; "exponential" upper - scale exp(-v/scale); "softplus" upper - log(1 + e^-v); "tanh" onto
    (lower, upper). reach: an exponential saturates where e^(-v/scale) is the largest number of the dtype to
    this power. Below 1/2 the square does not overflow, and any formula of f* stays finite; the catalogue's
    need no square.
    """

    kind: str
    lower: sympy.Expr = -sympy.oo
    upper: sympy.Expr = sympy.oo
    scale: sympy.Expr = sympy.S.One
    reach: float = 0.45

    @property
    def expression(self) -> sympy.Expr:
        """g as a sympy expression in v."""
        if self.kind == "identity":
            return V
        if self.kind == "exponential":
            return self.upper - self.scale * sympy.exp(-V / self.scale)
        if self.kind == "softplus":
            return self.upper - sympy.log(1 + sympy.exp(-V))
        return (self.upper + self.lower) / 2 + (self.upper - self.lower) / 2 * sympy.tanh(V)

    def __call__(self, v: jax.Array) -> jax.Array:
        """g(v), inside the domain also where rounding would put it on or beyond the edge."""
        import jax.numpy as jnp

        if self.kind == "identity":
            return v
        upper = float(self.upper)
        if self.kind == "tanh":
            lower = float(self.lower)
            return (upper + lower) / 2 + (upper - lower) / 2 * jnp.tanh(v)
        info = np.finfo(v.dtype)
        if self.kind == "exponential":
            scale = float(self.scale)
            x = -self.saturated(v) / scale
            near = float(self.upper - self.scale) - scale * jnp.expm1(x)
            raw = jnp.where(jnp.abs(x) < 1, near, upper - scale * jnp.exp(x))
        else:
            # log(1 + e^-v) - log 2 beside v = 0, so that g(0) = upper - log 2 takes no digits of it.
            close = jnp.abs(v) < 1
            near = float(self.upper - sympy.log(2)) - jnp.log1p(jnp.expm1(jnp.where(close, -v, 0)) / 2)
            raw = jnp.where(close, near, upper - jnp.logaddexp(-v, 0))
        # Largest number of the dtype below the upper end, and no overflow at the other side.
        top = np.nextafter(np.asarray(upper, v.dtype), np.asarray(-np.inf, v.dtype))
        if top > -info.tiny:
            top = top if upper != 0 else -info.tiny
        return jnp.clip(raw, -info.max, top)

    def saturated(self, v: jax.Array) -> jax.Array:
        """v where g still falls with it, and the least of these v below."""
        import jax.numpy as jnp

        if self.kind != "exponential":
            return v
        scale = float(self.scale)
        largest = self.reach * float(np.log(np.finfo(v.dtype).max)) - max(math.log(scale), 0.0)
        return jnp.maximum(v, -scale * max(largest, 1.0))

    def inverse(self, s: float) -> float:
        """v with g(v) = s; +-inf at an end of the range."""
        if self.kind == "identity":
            return s
        gap = float(self.upper) - s
        if gap <= 0:
            return math.inf
        if self.kind == "exponential":
            scale, middle = float(self.scale), float(self.upper - self.scale)
            share = (middle - s) / scale
            # v = 0, the equilibrium of `chosen`, exactly where s is the middle up to rounding.
            return 0.0 if abs(share) < 1e-15 else -scale * math.log1p(share)
        if self.kind == "softplus":
            return -math.log(math.expm1(gap)) + 0.0
        half = (float(self.upper) - float(self.lower)) / 2
        x = (s - float(self.lower)) / half - 1
        return math.atanh(x) if abs(x) < 1 else math.copysign(math.inf, x)

    def slope(self, v: float) -> float:
        """g'(v)"""
        if self.kind == "identity":
            return 1.0
        if math.isinf(v):
            return 0.0
        if self.kind == "exponential":
            return math.exp(-v / float(self.scale))
        if self.kind == "softplus":
            return 1 / (1 + math.exp(v))
        return (float(self.upper) - float(self.lower)) / 2 / math.cosh(v) ** 2


IDENTITY = Activation("identity")


def chosen(upper: sympy.Expr, lower: sympy.Expr, s0: sympy.Expr, piecewise_linear: bool) -> Activation:
    """The activation for a generator of which only the slopes are known.

    lower = f'(0+), upper = f'(oo), s0 = f'(1). An unbounded domain needs none. A domain with the upper
    end S gets S - (S - s0) exp(-v/(S - s0)), whose value and slope at v = 0 are s0 and 1: the table's for
    reverse_kl, squared_hellinger, neyman_chi2 and le_cam. A piecewise linear f has f* linear between its
    first and last slope, and gets tanh onto them.
    """
    if piecewise_linear and float(lower) < float(s0) < float(upper) < float("inf"):
        return Activation("tanh", lower=lower, upper=upper)
    if upper == sympy.oo:
        return IDENTITY
    gap = tidy_number(upper - s0)
    if float(gap) <= 1e-12:
        return Activation("softplus", upper=upper)
    return Activation("exponential", upper=upper, scale=gap)
