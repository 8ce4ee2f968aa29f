"""A training step on one device, or on many that share its batch, behind one interface.

A step is a pure function (state, constants, batch, key) -> (state, metrics). Its metrics are scalars, the
same on every device, or arrays with the batch's axis first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["DataParallel", "SingleDevice"]

Step = Callable[[Any, Any, Any, jax.Array], tuple[Any, Any]]
MakeStep = Callable[[str | None], Step]


class SingleDevice:
    """The step, jitted, on the default device; the state's buffers are given up to it (donated)."""

    count = 1

    def __init__(self, make_step: MakeStep):
        """`make_step(axis)` gives the step; here the axis is None."""
        self._step = jax.jit(make_step(None), donate_argnums=0)

    def place(self, tree: Any) -> Any:
        """The state or the constants, where the step wants them."""
        return jax.tree.map(jnp.asarray, tree)

    def __call__(self, state: Any, constants: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        """One step."""
        return self._step(state, constants, batch, key)

    def metrics(self, metrics: Any) -> Any:
        """The metrics of the whole batch, on the host."""
        return jax.device_get(metrics)

    def fetch(self, tree: Any) -> Any:
        """The state as one device holds it."""
        return tree


class DataParallel:
    """The step under `jax.pmap` over local devices, each with an equal share of the batch and all of the
    state.

    The step averages its gradients by `jax.lax.pmean` over the axis that it is made with.

    Raises ValueError for a batch that the devices do not divide.
    """

    AXIS = "devices"

    def __init__(self, make_step: MakeStep, devices: Sequence[Any] | None = None):
        """`make_step(axis)` gives the step; `devices` are by default all local ones."""
        self.devices = list(jax.local_devices() if devices is None else devices)
        self.count = len(self.devices)
        self._step = jax.pmap(
            make_step(self.AXIS),
            axis_name=self.AXIS,
            in_axes=(0, 0, 0, None),
            devices=self.devices,
            donate_argnums=0,
        )
        self._spread = jax.pmap(lambda _, tree: tree, in_axes=(0, None), devices=self.devices)

    def place(self, tree: Any) -> Any:
        """A copy on every device."""
        return self._spread(np.arange(self.count), tree)

    def share_out(self, batch: Any) -> Any:
        """n ... -> devices n/devices ..., in order."""

        def cut(leaf: Any) -> Any:
            if leaf.shape[0] % self.count:
                raise ValueError(
                    f"batch of {leaf.shape[0]} for {self.count} devices; expected a multiple of them"
                )
            return leaf.reshape(self.count, leaf.shape[0] // self.count, *leaf.shape[1:])

        return jax.tree.map(cut, batch)

    def __call__(self, state: Any, constants: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        """One step on the global batch."""
        return self._step(state, constants, self.share_out(batch), key)

    def metrics(self, metrics: Any) -> Any:
        """The metrics of the global batch, on the host, samples in the order of the batch."""
        return jax.tree.map(
            lambda leaf: leaf[0] if leaf.ndim == 1 else leaf.reshape(-1, *leaf.shape[2:]),
            jax.device_get(metrics),
        )

    def fetch(self, tree: Any) -> Any:
        """The state as the first device holds it; all hold the same."""
        return jax.tree.map(lambda leaf: leaf[0], tree)
