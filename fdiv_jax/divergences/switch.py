"""One of several divergences, picked when the compiled code runs: one compiled program serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fdiv_jax.divergences._divergence import Divergence

__all__ = ["DivergenceFunctions", "DivergenceSwitch", "SwitchedDivergence"]


@runtime_checkable
class DivergenceFunctions(Protocol):
    """The functions of a divergence that training evaluates: those of `Divergence`, or of one of a switch's
    members."""

    def f(self, t: ArrayLike) -> jax.Array:
        """f(t)."""
        ...

    def activation(self, v: ArrayLike) -> jax.Array:
        """T = g(v)."""
        ...

    def conjugate(self, s: ArrayLike) -> jax.Array:
        """f*(s)."""
        ...

    def conjugate_prime(self, s: ArrayLike) -> jax.Array:
        """f*'(s)."""
        ...

    def conjugate_of_activation(self, v: ArrayLike) -> jax.Array:
        """f*(g(v))."""
        ...

    def gaussian_divergence(self, m: ArrayLike) -> jax.Array:
        """F_f(m)."""
        ...

    def gaussian_weight(self, m: ArrayLike) -> jax.Array:
        """w_f(m) = 2 dF_f/dm."""
        ...

    def gaussian_log_weight(self, m: ArrayLike) -> jax.Array:
        """log w_f(m)."""
        ...


@dataclass(frozen=True)
class DivergenceSwitch:
    """Several divergences of which compiled code evaluates one, by an index that is known when it runs.

        switch.at(i).f(t) = f_i(t),   and likewise for every other function of a divergence

    A program that is slow to compile, such as a training step, is compiled once for all members instead of
    once for each. Immutable and hashable, so it can be a static argument of `jax.jit`; the index is a dynamic
    one. Under `jax.vmap` over the index every member is evaluated and one is selected.

    Attributes:
        members: the divergences, at least one, all different.

    Raises:
        ValueError: no members, or one twice.

    >>> import jax
    >>> from fdiv_jax.divergences import divergence
    >>> switch = DivergenceSwitch((divergence("kl"), divergence("pearson_chi2")))
    >>> weight = jax.jit(lambda index: switch.at(index).gaussian_weight(0.0))
    >>> float(weight(0)), float(weight(1))
    (1.0, 2.0)
    """

    members: tuple[Divergence, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members:
            raise ValueError("a switch between no divergences; expected at least one")
        for place, member in enumerate(self.members):
            if not isinstance(member, Divergence):
                raise TypeError(f"member {place} of a switch must be a Divergence, got {member!r}")
            if member in self.members[:place]:
                raise ValueError(f"{member.name} comes twice in a switch; expected different divergences")

    def index(self, member: Divergence) -> int:
        """The place of a member.

        Raises:
            ValueError: it is not one.
        """
        if member not in self.members:
            names = ", ".join(each.name for each in self.members)
            raise ValueError(f"{member.name} is not a member of the switch between {names}")
        return self.members.index(member)

    def at(self, index: ArrayLike) -> SwitchedDivergence:
        """The functions of the member at an index.

        Args:
            index: (), an integer, which may be traced; one outside the members takes the nearest.

        Raises:
            TypeError: the index is not one integer.
        """
        index = jnp.asarray(index)
        if index.shape or not jnp.issubdtype(index.dtype, jnp.integer):
            raise TypeError(f"index must be one integer, got {index.dtype}{list(index.shape)}")
        return SwitchedDivergence(self.members, index)


@dataclass(frozen=True, eq=False)
class SwitchedDivergence:
    """The functions of one of several divergences, each a `jax.lax.switch` over the members' own; made by
    `DivergenceSwitch.at`.

    Attributes:
        members: the divergences.
        index: (), an integer: which one.
    """

    members: Sequence[Divergence]
    index: jax.Array

    def _switch(self, name: str, x: ArrayLike) -> jax.Array:
        return jax.lax.switch(self.index, [getattr(member, name) for member in self.members], jnp.asarray(x))

    def f(self, t: ArrayLike) -> jax.Array:
        """f(t)."""
        return self._switch("f", t)

    def activation(self, v: ArrayLike) -> jax.Array:
        """T = g(v)."""
        return self._switch("activation", v)

    def conjugate(self, s: ArrayLike) -> jax.Array:
        """f*(s)."""
        return self._switch("conjugate", s)

    def conjugate_prime(self, s: ArrayLike) -> jax.Array:
        """f*'(s)."""
        return self._switch("conjugate_prime", s)

    def conjugate_of_activation(self, v: ArrayLike) -> jax.Array:
        """f*(g(v))."""
        return self._switch("conjugate_of_activation", v)

    def gaussian_divergence(self, m: ArrayLike) -> jax.Array:
        """F_f(m)."""
        return self._switch("gaussian_divergence", m)

    def gaussian_weight(self, m: ArrayLike) -> jax.Array:
        """w_f(m) = 2 dF_f/dm."""
        return self._switch("gaussian_weight", m)

    def gaussian_log_weight(self, m: ArrayLike) -> jax.Array:
        """log w_f(m)."""
        return self._switch("gaussian_log_weight", m)
