"""One of several divergences, picked when the compiled code runs: one compiled step serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fdiv_jax.divergences import Divergence

__all__ = ["Chosen"]


class Chosen:
    """Stands in for `members[index]` where training asks a divergence for its functions.

    `index` may be traced. Each function is a `jax.lax.switch` over the members' own.
    """

    def __init__(self, members: Sequence[Divergence], index: Any):
        """At least one member; the index is clamped to them."""
        if not members:
            raise ValueError("expected at least one divergence, got none")
        self.members = tuple(members)
        self.index = index

    def _call(self, name: str, x: Any) -> jax.Array:
        x = jnp.asarray(x)
        return jax.lax.switch(self.index, [getattr(member, name) for member in self.members], x)

    def activation(self, v: Any) -> jax.Array:
        """T = g(v)."""
        return self._call("activation", v)

    def conjugate(self, s: Any) -> jax.Array:
        """f*(s)."""
        return self._call("conjugate", s)

    def conjugate_of_activation(self, v: Any) -> jax.Array:
        """f*(g(v))."""
        return self._call("conjugate_of_activation", v)

    def gaussian_divergence(self, m: Any) -> jax.Array:
        """F_f(m); also what a closed form gives, where there is one."""
        return self._call("gaussian_divergence", m)

    def gaussian_weight(self, m: Any) -> jax.Array:
        """w_f(m)."""
        return self._call("gaussian_weight", m)
