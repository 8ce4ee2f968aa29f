"""One smooth piece of f along log t, as Chebyshev series made once in high precision.

Let b be the point of the piece nearest to t = 1 and x = |log(t/b)|, on either side of b. The table holds
f(t), f'(t), f''(t) and, for the conjugate,

    gap:   |f'(t) - f'(b)|, and |S - f'(t)| where f' is closer to its finite limit S at the end of the side
    dual:  h = f*(f'(t)) - (b f'(t) - f(b)) >= 0 near b, where f* itself would lose the digits of h, and
           f*(f'(t)) = t f'(t) - f(t) farther away

each evaluated by mpmath from the exact formula in as many digits as it takes, so that nothing cancels,
overflows or underflows: the series are those of the logarithm, beside a power of 1 - e^-x, wherever the
sign is constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import sympy

from fdiv_jax.divergences import _chebyshev
from fdiv_jax.divergences._evaluate import mp_context, mp_function
from fdiv_jax.divergences._names import Value
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece
from fdiv_jax.divergences._quadrature_table import leading_power

LINEAR_REACH = 8.0  # panels are uniform in x up to here, in log x beyond
_ENDS = (0.0, 0.5, 1.0, 2.0, 4.0, LINEAR_REACH, 22.0, 60.0, 170.0, 745.0)
_NEAR = 0.5
_MAX_PANELS = 150
_MAX_DEPTH = 45
_LARGEST = 800.0  # no float64 has a larger logarithm
_DIGITS = (0, 60, 450)
_TOLERANCE = 2e-15


class UnresolvedError(ValueError):
    """The piece oscillates too fast for a table."""


@dataclass(frozen=True)
class Series:
    """sign e^(offset + P(u)) z^power, z = 1 - e^-x, or e^offset P(u) z^power where the sign is 0."""

    coefficients: np.ndarray
    offset: float
    power: float
    sign: int


@dataclass(frozen=True)
class Panel:
    """low <= x <= high. far: the gap is that to the limit S. near_base: dual is h."""

    low: float
    high: float
    far: bool
    near_base: bool
    series: dict[str, Series]

    @property
    def log_gap_at_end(self) -> float:
        gap = self.series["gap"]
        return gap.offset + float(gap.coefficients.sum()) + gap.power * math.log(-math.expm1(-self.high))

    def value_at_end(self, quantity: str) -> float:
        series = self.series[quantity]
        p = float(series.coefficients.sum())
        size = (
            math.exp(series.offset + (p if series.sign else 0.0)) * (-math.expm1(-self.high)) ** series.power
        )
        return size * (series.sign or p)


@dataclass(frozen=True)
class Side:
    """The panels of one side, outwards: x = direction log(t/b).

    ends: "number" where t leaves the numbers of float64 or the piece, "flat" where f is linear from there on
    to rounding, "steep" where it overflows. far_from: log gap at which the far panels begin.
    """

    direction: int
    panels: tuple[Panel, ...]
    ends: str
    far_from: float
    builder: _Builder = field(repr=False, compare=False)

    def add_derivative(self, order: int) -> None:
        """Add the series of a derivative of f above the second, by the name "derivative 3" and so on."""
        for panel in self.panels:
            panel.series[f"derivative {order}"] = self.builder.derivative(panel, order)

    @property
    def first_far(self) -> int:
        return next((i for i, panel in enumerate(self.panels) if panel.far), len(self.panels))


class _Curve:
    """All quantities along one side of b, in high precision."""

    def __init__(self, piece: Piece, base: sympy.Expr, slope: sympy.Expr, end_slope: sympy.Expr, sign: int):
        self.context = mp_context(50)
        self.sign, self.piece = sign, piece
        self.functions = [mp_function(piece.derivative(k), T, self.context) for k in range(3)]
        self.base = base
        self.bounded = bool(end_slope.is_finite)
        numbers = (base, slope, end_slope if self.bounded else sympy.S.Zero)
        self.numbers = [mp_function(number, T, self.context) for number in numbers]
        self.extra_digits = 0
        self._constants: dict[int, tuple] = {}

    def _at_base(self, digits: int) -> tuple:
        if digits not in self._constants:
            base, slope, end = (number(self.context.one) for number in self.numbers)
            value = self.context.zero if self.base == 1 else self.context.re(self.functions[0](base))
            self._constants[digits] = (base, value, slope, end)
        return self._constants[digits]

    def __call__(self, x: Value, extra_digits: int = 0) -> dict[str, Value]:
        """Every quantity at x; both gaps and both duals."""
        context = self.context
        # A multiple of 50, so that few sets of constants are needed.
        context.dps = digits = 50 * (2 + int(x) // 50) + self.extra_digits + extra_digits
        base, at_base, slope, end = self._at_base(digits)
        x = self.sign * context.mpf(x)
        t = base * context.exp(x)
        f, first, second = (context.re(function(t)) for function in self.functions[:3])
        distance = base * context.expm1(x)
        rise = first - slope
        return {
            "near": abs(rise), "far": abs(end - first),
            "h": rise * distance - (f - at_base - slope * distance),
            "conjugate": t * first - f, "f": f, "slope": first, "curvature": second,
        }  # fmt: skip

    def derivative(self, order: int, x: Value, extra_digits: int = 0) -> Value:
        """The derivative of f of this order at x, in as many digits as it takes."""
        context = self.context
        while len(self.functions) <= order:
            self.functions.append(mp_function(self.piece.derivative(len(self.functions)), T, context))
        value = context.nan
        for extra in _DIGITS:
            before = value
            for digits in (0, 50):
                context.dps = 50 * (2 + int(x) // 50) + extra + digits + extra_digits
                t = self._at_base(context.dps)[0] * context.exp(self.sign * context.mpf(x))
                before, value = value, context.re(self.functions[order](t))
            if abs(value - before) <= 1e-17 * abs(value):
                break
        return value

    def settle(self, x: float, names: tuple[str, ...]) -> bool:
        """Take as many digits as these quantities need at x; False where none are enough."""
        for self.extra_digits in _DIGITS:
            a, b = self(x), self(x, 50)
            if all(abs(a[name] - b[name]) <= 1e-17 * abs(b[name]) for name in names):
                return True
        return False


class _Builder:
    """Panels of one side, refined until the series resolve every quantity."""

    def __init__(self, curve: _Curve):
        self.curve, self.panels, self.ends = curve, [], "number"
        context = curve.context
        small = [curve(context.mpf(10) ** -k, 200) for k in (20, 24, 28)]
        self.powers = {
            name: leading_power([abs(row[name]) for row in small], context)
            for name in ("near", "h", "f", "slope", "curvature")
        }

    def log(self, x: Value) -> float:
        return float(self.curve.context.log(abs(x))) if x else -math.inf

    def refine(self, low: float, high: float, depth: int = 0) -> bool:
        """Add panels for [low, high]; False where the numbers of float64 end."""
        curve = self.curve
        far, near_base = False, high <= _NEAR
        if low > 0:
            start = curve(low)
            far = curve.bounded and start["near"] > start["far"]
            gap = "far" if far else "near"
            if not curve.settle(low, (gap, "curvature")):
                self.ends = "flat"
                return False
            size = self.log(curve(low)[gap])
            if abs(size) > _LARGEST:
                self.ends = "flat" if size < 0 else "steep"
                return False
        names = {
            "gap": "far" if far else "near", "dual": "h" if near_base else "conjugate",
            "f": "f", "slope": "slope", "curvature": "curvature",
        }  # fmt: skip
        xs = _nodes(low, high)
        series = None
        if curve.settle(xs[0], tuple(names.values())) and (
            far or not self._leaves(high) or depth == _MAX_DEPTH
        ):
            series = self._resolved(xs, names, high / (high - low))
        if series is None:
            if depth >= _MAX_DEPTH or len(self.panels) >= _MAX_PANELS:
                raise UnresolvedError(f"f' varies too fast near |log t| = {low:.3g}")
            middle = math.sqrt(low * high) if low >= LINEAR_REACH else (low + high) / 2
            return self.refine(low, middle, depth + 1) and self.refine(middle, high, depth + 1)
        self.panels.append(Panel(low, high, far, near_base, series))
        return True

    def _leaves(self, high: float) -> bool:
        """Whether f' comes so close to its limit that the gap to f'(b) no longer tells where it is."""
        end = self.curve(high)
        return self.curve.bounded and end["near"] > 30 * end["far"]

    def _resolved(self, xs: list[float], names: dict[str, str], position: float) -> dict[str, Series] | None:
        rows = [self.curve(x) for x in xs]
        zeros = self._log_zeros(xs)
        found = {}
        for quantity, name in names.items():
            power = self.powers.get(name, 0.0)
            found[quantity], resolved = _series(
                [row[name] for row in rows], power, power * zeros, position, self, quantity
            )
            if not resolved:
                return None
        return found

    def _log_zeros(self, xs: list[float]) -> np.ndarray:
        context = self.curve.context
        return np.array([float(context.log(-context.expm1(-context.mpf(x)))) for x in xs])

    def derivative(self, panel: Panel, order: int) -> Series:
        """The series of a higher derivative on a panel that resolves f''."""
        curve, name = self.curve, f"derivative {order}"
        if name not in self.powers:
            small = [curve.derivative(order, curve.context.mpf(10) ** -k, 200) for k in (20, 24, 28)]
            self.powers[name] = leading_power([abs(value) for value in small], curve.context)
        xs, power = _nodes(panel.low, panel.high), self.powers[name]
        values, position = [curve.derivative(order, x) for x in xs], panel.high / (panel.high - panel.low)
        return _series(values, power, power * self._log_zeros(xs), position, self, name)[0]


def _nodes(low: float, high: float) -> list[float]:
    """The nodes of a panel, uniform in x, or in log x far out."""
    a, b = (math.log(low), math.log(high)) if low >= LINEAR_REACH else (low, high)
    points = (a + b) / 2 + (b - a) / 2 * _chebyshev.NODES
    return [float(x) for x in (np.exp(points) if low >= LINEAR_REACH else points)]


def _series(
    values: list[Value], power: float, zeros: np.ndarray, position: float, builder: _Builder, quantity: str
) -> tuple[Series, bool]:
    """The series of the logarithm, or beside a zero that of the values, and whether it resolves them."""
    sizes = np.array([builder.log(v) for v in values]) - zeros
    largest = float(np.max(sizes, initial=-1e3))
    signs = {1 if v > 0 else -1 if v < 0 else 0 for v in values}
    options = []
    if len(signs) == 1 and 0 not in signs:
        offset = float(sizes[-1])  # at the innermost node
        options.append((sizes - offset, offset, signs.pop(), max(1.0, float(np.max(np.abs(sizes))))))
    # f, f' and f* cross zero, at the end of a panel perhaps; f'' may touch it.
    if not options or quantity not in ("gap", "curvature") or position > 1e4:
        scale = builder.curve.context.exp(-largest)
        options.append((np.array([float(v * scale) for v in values]) * np.exp(-zeros), largest, 0, 1.0))
    found = []
    for numbers, offset, sign, size in options:
        coefficients = _chebyshev.TRANSFORM @ numbers
        rest = float(np.max(np.abs(coefficients[-2:]))) / (_TOLERANCE * size + 4e-16 * position)
        # Rounding would be noise in the derivative.
        coefficients[np.abs(coefficients) < 2e-16 * size] = 0
        found.append((rest, Series(coefficients, offset, power, sign)))
        if rest <= 1:
            return found[-1][1], True
    return min(found, key=lambda pair: pair[0])[1], False


def make_side(
    piece: Piece, base: sympy.Expr, slope: sympy.Expr, end_slope: sympy.Expr, direction: int
) -> Side | None:
    """The table on one side of the base, where the piece has one.

    slope, end_slope: f' at the base and at the other end.

    Raises:
      UnresolvedError: f' oscillates.
    """
    outer = piece.upper if direction > 0 else piece.lower
    log_base = float(sympy.log(base))
    reach = _ENDS[-1] - direction * log_base
    if outer not in (0, sympy.oo):
        reach = min(reach, abs(float(sympy.log(outer)) - log_base))
    if reach <= 0:
        return None
    curve = _Curve(piece, base, slope, end_slope, direction)
    builder = _Builder(curve)
    for low, high in pairwise([*(x for x in _ENDS if x < reach), reach]):
        if not builder.refine(low, high):
            break
    side = Side(direction, tuple(builder.panels), builder.ends, -math.inf, builder)
    if side.first_far < len(side.panels):
        start = side.panels[side.first_far].low
        curve.settle(start, ("far",))
        side = replace(side, far_from=builder.log(curve(start)["far"]))
    return side
