"""The divergence of a generator, and everything that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import sympy

from fdiv_jax.divergences import _activation, _checks, _end_values, _legendre
from fdiv_jax.divergences._catalogue import Entry
from fdiv_jax.divergences._closed_form import closed_form
from fdiv_jax.divergences._conjugate import Conjugate
from fdiv_jax.divergences._evaluate import mp_context, mp_function
from fdiv_jax.divergences._exact import at_point, real_value, tidy_number
from fdiv_jax.divergences._moments import MomentTables
from fdiv_jax.divergences._names import Value
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece, split

if TYPE_CHECKING:
    import jax
    from jax.typing import ArrayLike

    from fdiv_jax.divergences._conjugate_numbers import ConjugateNumbers
    from fdiv_jax.divergences._conjugate_values import ConjugateFunctions
    from fdiv_jax.divergences._gaussian import GaussianMoments


@dataclass(frozen=True, eq=False)
class Divergence:
    """D_f(P||Q) = E_Q[f(dP/dQ)] for a convex f on t > 0 with f(1) = 0.

    Made by `divergence`; immutable and hashable, so it can be a static argument of `jax.jit`. Every
    attribute beyond the generator is worked out when first asked for, and kept.

    Attributes:
      name: catalogue name, "alpha(a)", or the expression.
      generator: f as a sympy expression in `sympy.Symbol("t", positive=True)`.

    Source: Csiszar 1963; Liese and Vajda 2006; Nowozin, Cseke, Tomioka 2016 (conjugate and activation).

    >>> from fdiv_jax.divergences import divergence
    >>> d = divergence("squared_hellinger")
    >>> d.curvature, d.equilibrium
    (1/2, (0.0, 0.0))
    """

    name: str
    generator: sympy.Expr
    description: str = ""
    _entry: Entry | None = field(default=None, repr=False)
    _pieces: tuple[Piece, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self._pieces:
            object.__setattr__(self, "_pieces", split(self.generator))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Divergence) and (self.name, self.generator) == (other.name, other.generator)

    def __hash__(self) -> int:
        return hash((self.name, self.generator))

    def __repr__(self) -> str:
        if self.name == str(self.generator):
            return f"Divergence({self.name!r})"
        return f"Divergence({self.name!r}, f = {self.generator})"

    def __reduce__(self):
        from fdiv_jax.divergences._make import divergence

        spec = self.generator if self.name == str(self.generator) else self.name
        return partial(divergence, allow_infinite=True), (spec,)

    # --- from f alone ----------------------------------------

    def f(self, t: ArrayLike) -> jax.Array:
        """f(t), any shape; f(0+) at t = 0 and +inf for t < 0, the closed convex extension."""
        return self._f(t)

    @cached_property
    def first_derivative(self) -> sympy.Expr:
        """f'(t), piecewise where f has kinks."""
        return _piecewise([(p, _legendre.stable_form(p.first)) for p in self._pieces])

    @cached_property
    def second_derivative(self) -> sympy.Expr:
        """f''(t) away from kinks; a kink's jump of f' is in `kinks`."""
        return _piecewise([(p, _legendre.stable_form(p.second)) for p in self._pieces])

    @cached_property
    def value_at_zero(self) -> sympy.Expr:
        """f(0+), exact: oo, a number, or a Float of 30 digits."""
        return _end_values.limit_at_end(self._pieces[0].expression, sympy.S.Zero)

    @cached_property
    def tail_exponents(self) -> tuple[float, float]:
        """(p, q) with t^2 f''(t) ~ t^p as t -> 0 and t^q as t -> oo, but for factors that grow more slowly.

        -inf and inf where f'' grows faster than every power, inf and -inf where it falls faster or is 0.
        """
        if self._tables.powers is not None:
            powers = [p for _, p in self._tables.powers]
            return min(powers), max(powers)
        profile = self._tables.profile(1)
        tilts = [
            math.inf if side.steep else -math.inf if side.tail == 0 else side.tilt
            for side in (profile.left, profile.right)
        ]
        return 0.5 - tilts[0], 0.5 + tilts[1]

    @cached_property
    def kinks(self) -> tuple[tuple[sympy.Expr, sympy.Expr], ...]:
        """Pairs (t, jump of f' at t): the point masses of f''."""
        found = []
        for left, right in zip(self._pieces[:-1], self._pieces[1:], strict=True):
            cut = right.lower
            a, b = _legendre.slope_at(left, cut, "-"), _legendre.slope_at(right, cut, "+")
            if float(b - a) > 1e-12:
                found.append((cut, tidy_number(b - a)))
        return tuple(found)

    @cached_property
    def curvature(self) -> sympy.Expr:
        """f''(1), exact; oo where f has a kink at 1 or f'' a pole, the mean of both sides where f'' jumps.

        It is the weight w_f(0), and the reciprocal of f*''(f'(1)) where f'' does not jump.
        """
        if any(cut == 1 for cut, _ in self.kinks):
            return sympy.oo
        values = []
        for piece in self._pieces:
            if piece.lower <= 1 <= piece.upper:
                values.append(_value_at_one(piece))
        if sympy.oo in values:
            return sympy.oo
        return tidy_number(sympy.Add(*values) / len(values))

    @property
    def is_smooth(self) -> bool:
        """Whether f' is continuous (no kink)."""
        return not self.kinks

    @cached_property
    def is_symmetric(self) -> bool:
        """D_f(P||Q) = D_f(Q||P) for all P and Q: t f(1/t) = f(t) up to a (t - 1)."""
        context = mp_context(60)
        f = mp_function(self.generator, T, context)

        def values(t: Value) -> tuple[Value, Value]:
            return f(t), t * f(1 / t)

        # Beside every kink, and on either side of it out to the far ends.
        cuts = [context.mpf(float(p.lower)) for p in self._pieces[1:]]
        points = [context.mpf(x) for x in ("1e-9", "1e-3", "0.14", "0.65", "1.3", "5", "40", "1e3", "1e9")]
        points += [c * x for c in cuts for x in (context.mpf("0.7"), context.mpf("1.6"))]
        slope = (values(context.mpf(3))[0] - values(context.mpf(3))[1]) / 2
        for t in points:
            a, b = (context.re(value) for value in values(t))
            size = abs(a) + abs(b) + abs(slope * (t - 1))
            if abs(a - b - slope * (t - 1)) > 1e-25 * size:
                return False
        return True

    def reversed(self) -> Divergence:
        """The divergence with P and Q swapped, generator t f(1/t)."""
        from fdiv_jax.divergences._make import reversed_of

        return reversed_of(self)

    # --- conjugate and activation ----------------------------------------

    @cached_property
    def _conjugate(self) -> Conjugate:
        entry = self._entry or Entry(self.generator)
        return Conjugate(self._pieces, entry.conjugate, entry.inverse)

    @cached_property
    def _conjugate_numbers(self) -> ConjugateNumbers:
        from fdiv_jax.divergences._conjugate_numbers import ConjugateNumbers

        return ConjugateNumbers(self._conjugate, self._known_values)

    @cached_property
    def _known_values(self) -> ConjugateFunctions | None:
        known = None if self._entry is None else self._entry.numeric
        return None if known is None else known()

    def conjugate(self, s: ArrayLike) -> jax.Array:
        """f*(s) = sup over t > 0 of s t - f(t), any shape.

        +inf above the domain, with derivative 0 there so that no nan arises. Below f'(0+), where that is
        finite, the supremum sits at t -> 0 and f*(s) = -f(0+). Closed form where `conjugate_expression`
        has one, otherwise a numerical Legendre transform with implicit derivatives f*' = t*(s) and f*'' =
        1/f''(t*).
        """
        return self._conjugate_numbers.value(s)

    def conjugate_prime(self, s: ArrayLike) -> jax.Array:
        """f*'(s) = t*(s), the maximiser: 0 below f'(0+), +inf above the domain."""
        return self._conjugate_numbers.prime(s)

    @property
    def conjugate_expression(self) -> sympy.Expr | None:
        """f* as a sympy expression in `sympy.Symbol("s", real=True)`, Piecewise where it has parts; None
        if numeric.

        Its value is oo above the domain.
        """
        return self._conjugate.expression

    @property
    def conjugate_domain(self) -> sympy.Interval:
        """Where f* is finite: (-oo, f'(oo)), closed on the right where f* is finite there."""
        return self._conjugate.domain

    @property
    def slopes(self) -> tuple[sympy.Expr, sympy.Expr]:
        """(f'(0+), f'(oo)): f* is constant below the first and infinite above the second."""
        return self._conjugate.lowest_slope, self._conjugate.highest_slope

    @cached_property
    def equilibrium_slope(self) -> sympy.Expr:
        """s0 = f'(1), exact; the middle of both slopes at a kink."""
        slopes = [
            _legendre.slope_at(p, sympy.S.One, "+" if p.lower == 1 else "-")
            for p in self._pieces
            if p.lower <= 1 <= p.upper
        ]
        return tidy_number(sympy.Add(*slopes) / len(slopes))

    @cached_property
    def activation_map(self) -> _activation.Activation:
        """g with its kind and range."""
        if self._entry is not None and self._entry.activation is not None:
            return self._entry.activation
        linear = all(p.second == 0 for p in self._pieces)
        return _activation.chosen(self.slopes[1], self.slopes[0], self.equilibrium_slope, linear)

    @property
    def activation_expression(self) -> sympy.Expr:
        """g as a sympy expression in `sympy.Symbol("v", real=True)`."""
        return self.activation_map.expression

    def activation(self, v: ArrayLike) -> jax.Array:
        """T = g(v): an increasing map of the real line into dom f*, any shape."""
        from fdiv_jax.divergences._numbers import elementwise

        return elementwise(self.activation_map)(v)

    def conjugate_of_activation(self, v: ArrayLike) -> jax.Array:
        """f*(g(v)), the critic's second term, without the cancellation at the edge of dom f*."""
        return self._composed(v)

    @cached_property
    def _composed(self) -> Callable[[ArrayLike], jax.Array]:
        import jax.numpy as jnp

        from fdiv_jax.divergences._numbers import elementwise

        numeric = self._known_values
        if numeric is None or numeric.composed is None:
            return lambda v: self.conjugate(self.activation(v))
        composed, saturated = numeric.composed, self.activation_map.saturated

        def formula(v: jax.Array) -> jax.Array:
            return composed(saturated(v))

        if self.slopes[0] == -sympy.oo:
            return elementwise(formula)
        # Below f'(0+) f* is constant.
        edge, floor = self.activation_map.inverse(float(self.slopes[0])), float(self._conjugate.floor)

        def evaluate(v: jax.Array) -> jax.Array:
            inside = v >= edge
            return jnp.where(inside, formula(jnp.where(inside, v, edge + 1)), floor)

        return elementwise(evaluate)

    @cached_property
    def equilibrium(self) -> tuple[float, float]:
        """(s0, v0): the critic's output at Q = P, s0 = f'(1), and before the activation, g(v0) = s0."""
        s0 = float(self.equilibrium_slope)
        return s0, self.activation_map.inverse(s0)

    @property
    def activation_slope(self) -> float:
        """g'(v0)"""
        return self.activation_map.slope(self.equilibrium[1])

    # --- between Gaussians ----------------------------------------

    @cached_property
    def _tables(self) -> MomentTables:
        _checks.check_finite_divergence(self.generator, self._pieces)
        kink_at_one = any(cut == 1 for cut, _ in self.kinks)
        # |t - 1|^(3/2) and the like: no kink, yet f grows more slowly than (t - 1)^2.
        sharp = kink_at_one or self.curvature == sympy.oo
        return MomentTables(self._pieces, self.equilibrium_slope, sharp)

    @cached_property
    def _gaussian(self) -> GaussianMoments:
        from fdiv_jax.divergences._gaussian import GaussianMoments

        return GaussianMoments(self._tables)

    def gaussian_divergence(self, m: ArrayLike) -> jax.Array:
        """D_f between two Gaussians of one covariance at squared distance m, exact.

            F_f(m) = E[f(e^L)],  L ~ N(-m/2, m),  m = ||mu_P - mu_Q||^2 / s^2

        Any shape, m >= 0. Full relative accuracy for small m, saturating at the largest finite number of
        the dtype where the divergence exceeds it (`gaussian_log_weight` does not saturate). Its
        derivative is w_f(m)/2 by the weight identity. Where the curvature is infinite, the derivative at
        m = 0 is taken to be 0, the subgradient at the minimum, so that parameter gradients at Q = P are 0
        and not nan.

        Raises:
          InfiniteDivergenceError: (a ValueError) f grows faster than every power of t.
          ValueError: a negative m given as a number, a list or a NumPy array; elsewhere it counts as 0.
        """
        return self._gaussian.value(m)

    def gaussian_weight(self, m: ArrayLike) -> jax.Array:
        """w_f(m) = 2 dF_f/dm = E_Q[r^2 f''(r)], the factor that f puts on the squared error's gradient.

        Any shape, m >= 0; w_f(0) = f''(1), +inf where that is infinite. Saturates at the largest
        finite number of the dtype.
        Source: Price 1958.
        """
        return self._gaussian.weight(m)

    def gaussian_log_weight(self, m: ArrayLike) -> jax.Array:
        """log w_f(m), finite where the weight itself over- or underflows."""
        return self._gaussian.log_weight(m)

    @cached_property
    def closed_form(self) -> sympy.Expr | None:
        """F_f(m) as a sympy expression in `sympy.Symbol("m", nonnegative=True)`, or None where none is
        known."""
        return closed_form(self._pieces)

    def closed(self, m: ArrayLike) -> jax.Array:
        """The closed form's value at m; its terms are summed so that they do not cancel at small m.

        Raises:
          ValueError: there is no closed form; `gaussian_divergence` (the exact loss) serves every generator.
        """
        if self.closed_form is None:
            raise ValueError(
                f"{self.name} has no closed form between Gaussians; use the exact loss "
                "(gaussian_divergence), which serves every generator by quadrature"
            )
        return self.gaussian_divergence(m)

    # --- end values ----------------------------------------

    @cached_property
    def _f(self) -> Callable[[ArrayLike], jax.Array]:
        import jax.numpy as jnp

        from fdiv_jax.divergences._numbers import elementwise
        from fdiv_jax.divergences._piece_function import piece_function

        known = None if self._entry is None else self._entry.stable
        parts = []
        for p in self._pieces:
            parts.append((float(p.lower), float(p.upper), piece_function(p, known), p.inner))
        at_zero = float(self.value_at_zero)

        def evaluate(t: jax.Array) -> jax.Array:
            result = jnp.where(t == 0, jnp.asarray(at_zero, t.dtype), jnp.inf)
            for low, high, function, sample in parts:
                inside = (t >= low) & (t < high) & (t > 0) if high < math.inf else (t >= low) & (t > 0)
                result = jnp.where(inside, function(jnp.where(inside, t, sample)), result)
            return jnp.where(jnp.isnan(t), t, result)

        return elementwise(evaluate)


def _value_at_one(piece: Piece) -> sympy.Expr:
    value = at_point(piece.second, sympy.S.One, T)
    if real_value(value) is not None:
        return tidy_number(value)
    value = _end_values.limit_beside(piece.second, sympy.S.One, "+" if piece.lower == 1 else "-")
    return sympy.oo if real_value(value) is None else value


def _piecewise(parts: list[tuple[Piece, sympy.Expr]]) -> sympy.Expr:
    if len(parts) == 1:
        return parts[0][1]
    cases = [(expression, piece.upper > T) for piece, expression in parts[:-1]]
    return sympy.Piecewise(*cases, (parts[-1][1], True))
