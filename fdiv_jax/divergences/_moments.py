"""What moments of f'' between Gaussians are made of: terms of a closed form, and tables for a quadrature."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

import sympy

from fdiv_jax.divergences._closed_form import stable_sum, terms_of
from fdiv_jax.divergences._pieces import Piece
from fdiv_jax.divergences._quadrature_table import Profile, build_profile, is_tabulable


class MomentTables:
    """Of E_Q[A_k(r)], k = 0, 1, 2, ...: each is made when it is first asked for, and kept."""

    def __init__(self, pieces: Sequence[Piece], equilibrium_slope: sympy.Expr, sharp: bool):
        """sharp: f grows more slowly than (t - 1)^2 at t = 1, so that w_f(0) is infinite."""
        self.pieces = tuple(pieces)
        self.equilibrium_slope = equilibrium_slope
        self.sharp = sharp
        self._profiles: dict[int, Profile] = {}
        self._tabulables: dict[int, bool] = {}
        self._lock = threading.RLock()

    @cached_property
    def terms(self) -> tuple[tuple[float, float], ...] | None:
        """F = sum of a (e^(c m) - 1)/c with positive a, as floats (a, c)."""
        pairs = stable_sum(self.pieces)
        return None if pairs is None else tuple((float(a), float(c)) for a, c in pairs)

    @cached_property
    def powers(self) -> tuple[tuple[float, float], ...] | None:
        """t^2 f'' = sum of b t^p with positive b, as floats (b, p)."""
        terms = terms_of(self.pieces[0].expression) if len(self.pieces) == 1 else None
        found: dict[sympy.Expr, sympy.Expr] = {}
        for term in terms or ():
            p, factor = term.power, term.power * (term.power - 1)
            if term.log_power:  # t^2 (t log t)'' = t and t^2 (log t)'' = -1
                if term.log_power > 1 or factor != 0:
                    return None
                factor = 2 * p - 1
            found[p] = found.get(p, sympy.S.Zero) + term.coefficient * factor
        pairs = [(float(b), float(p)) for p, b in found.items() if b != 0]
        return tuple(pairs) if pairs and all(b > 0 for b, _ in pairs) else None

    def profile(self, order: int) -> Profile:
        with self._lock:
            if order not in self._profiles:
                self._profiles[order] = build_profile(self.pieces, order, self.equilibrium_slope)
            return self._profiles[order]

    def is_tabulable(self, k: int) -> bool:
        with self._lock:
            if k not in self._tabulables:
                self._tabulables[k] = is_tabulable(self.pieces, k, self.equilibrium_slope)
            return self._tabulables[k]
