"""f* and t* as formulas, segment by segment of the s axis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import sympy

from fdiv_jax.divergences._legendre import (
    S,
    Segment,
    segments_of,
    shortened,
    symbolic_inverse,
    value_at_upper_end,
)
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._parse import T
from fdiv_jax.divergences._pieces import Piece


class Conjugate:
    """The conjugate of a generator given by its pieces; formulas of a single smooth piece may be known
    beforehand."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        known_value: sympy.Expr | None = None,
        known_inverse: sympy.Expr | None = None,
    ):
        self.pieces = tuple(pieces)
        self._known = (known_value, known_inverse)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        return segments_of(self.pieces)

    @cached_property
    def lowest_slope(self) -> sympy.Expr:
        first = self.segments[0]
        return first.upper if first.kind == "flat" else first.lower

    @property
    def highest_slope(self) -> sympy.Expr:
        return self.segments[-1].upper

    @property
    def floor(self) -> sympy.Expr:
        """-f(0+), the value of f* below f'(0+)."""
        first = self.segments[0]
        return -first.value_at_point if first.kind == "flat" else -sympy.oo

    @cached_property
    def value_at_top(self) -> sympy.Expr:
        return value_at_upper_end(self.pieces, self.highest_slope)

    @cached_property
    def domain(self) -> Formula:
        top = self.highest_slope
        return sympy.Interval(-sympy.oo, top, True, self.value_at_top == sympy.oo)

    @cached_property
    def _formulas(self) -> dict[Segment, tuple[sympy.Expr, sympy.Expr] | None]:
        """(f*, t*) of each smooth segment, None where only numbers are known."""
        formulas = {}
        for segment in self.segments:
            if segment.piece is None:
                continue
            value, inverse = self._known if len(self.pieces) == 1 else (None, None)
            if inverse is None:
                inverse = symbolic_inverse(segment.piece)
            if inverse is not None and value is None:
                value = shortened(S * inverse - segment.piece.expression.subs(T, inverse), segment.piece)
            formulas[segment] = None if inverse is None or value is None else (value, inverse)
        return formulas

    @cached_property
    def expression(self) -> sympy.Expr | None:
        cases = []
        for segment in self.segments:
            if segment.kind == "smooth":
                formula = self._formulas[segment]
                if formula is None:
                    return None
                value = formula[0]
            else:
                value = S * segment.point - segment.value_at_point
            cases.append((value, segment.upper))
        if len(cases) == 1 and cases[0][1] == sympy.oo:
            return cases[0][0]
        parts = [(value, upper > S) for value, upper in cases]
        if self.highest_slope != sympy.oo:
            if self.value_at_top != sympy.oo:
                parts.append((self.value_at_top, sympy.Eq(S, self.highest_slope)))
            parts.append((sympy.oo, True))
        else:
            parts[-1] = (parts[-1][0], True)
        return sympy.Piecewise(*parts)
