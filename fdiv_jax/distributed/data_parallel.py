"""Pure functions on one device, or on many that share a batch, behind one interface.

A function takes arguments that every device holds (a state, constants), a batch that the devices share out
(samples along the first axis), and last a random key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdiv_jax.arrays import PyTree
from fdiv_jax.compiling import jit

__all__ = ["DataParallel", "SingleDevice"]

Axis = str | tuple[str, ...] | None
"""Name of the axis, or of the axes, over which a batch is divided; None: it is whole."""
Make = Callable[[Axis], Callable[..., PyTree]]
NetworkFunction = Callable[..., jax.Array]
"""A function of parameters by name, and of inputs."""


class SingleDevice:
    """Functions jitted on the default device."""

    count = 1

    def compile(self, make: Make, *, step: bool = False) -> Callable[..., PyTree]:
        """The function that `make` gives for an axis, compiled; here the axis is None.

        It gives arrays with the samples along their first axis. With `step` it gives the next state, which
        takes the buffers of its first argument, and metrics: such arrays, and scalars of the whole batch.
        """
        return jit(make(None), donate_argnums=(0,) if step else ())

    def replicate(self, tree: PyTree) -> PyTree:
        """A state or constants, placed where the functions read them."""
        return jax.tree.map(jnp.asarray, tree)

    def shard(self, batch: PyTree) -> PyTree:
        """A batch, placed where the functions read it."""
        return batch

    def metrics(self, metrics: PyTree) -> PyTree:
        """The metrics of the whole batch, on the host."""
        return jax.device_get(metrics)

    def fetch(self, tree: PyTree) -> PyTree:
        """A state as one device holds it."""
        return tree

    def network(self, network: NetworkFunction) -> NetworkFunction:
        """The network as the functions are to call it: as it is."""
        return network


class DataParallel:
    """Functions under `jax.pmap` over local devices, each with an equal share of the batch.

    The functions average over the batch by `jax.lax.pmean` over the axis passed to `make`.

    On virtual devices of a CPU a call returns when its work is done: the devices share a few threads, and
    with two calls in flight one that waits in its average can hold the thread that the other needs.

    Raises:
        ValueError: the number of devices does not divide the batch.
    """

    AXIS = "devices"

    def __init__(self, devices: Sequence[Any] | None = None):
        """Use `devices`, by default all local ones."""
        self.devices = list(jax.local_devices() if devices is None else devices)
        self.count = len(self.devices)
        self._share_threads = self.count > 1 and self.devices[0].platform == "cpu"
        self._spread = jax.pmap(  # the functions' axis: of another name they would be compiled twice
            lambda _, tree: tree, in_axes=(0, None), axis_name=self.AXIS, devices=self.devices
        )

    def compile(self, make: Make, *, step: bool = False) -> Callable[..., PyTree]:
        """`make(AXIS)` compiled: every argument but the last, a key, with the devices' axis first."""
        function = make(self.AXIS)
        mapped = jax.pmap(
            lambda *arguments: function(*arguments[:-1], jax.random.wrap_key_data(arguments[-1])),
            axis_name=self.AXIS,
            devices=self.devices,
            donate_argnums=(0,) if step else (),
        )

        def call(*arguments: PyTree) -> PyTree:
            key = jax.random.key_data(arguments[-1])
            found = mapped(*arguments[:-1], np.broadcast_to(np.asarray(key), (self.count, *key.shape)))
            return self._in_turn(found)

        return call

    def replicate(self, tree: PyTree) -> PyTree:
        """A copy on every device."""
        return self._in_turn(self._spread(np.arange(self.count), tree))

    def shard(self, batch: PyTree) -> PyTree:
        """n ... -> devices n/devices ..., in order."""

        def cut(leaf: PyTree) -> PyTree:
            if leaf.shape[0] % self.count:
                raise ValueError(
                    f"batch of {leaf.shape[0]} for {self.count} devices; expected a multiple of them"
                )
            return leaf.reshape(self.count, leaf.shape[0] // self.count, *leaf.shape[1:])

        return jax.tree.map(cut, batch)

    def metrics(self, metrics: PyTree) -> PyTree:
        """The metrics of the global batch, on the host, samples in the order of the batch."""
        return joined(jax.device_get(metrics))

    def fetch(self, tree: PyTree) -> PyTree:
        """A state as the first device holds it; all hold the same."""
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)

    def network(self, network: NetworkFunction) -> NetworkFunction:
        """The network as the functions are to call it: as it is."""
        return network

    def _in_turn(self, found: PyTree) -> PyTree:
        return jax.block_until_ready(found) if self._share_threads else found


def joined(metrics: PyTree) -> PyTree:
    """Metrics whose first axis counts the devices as those of the whole batch: figures, which all devices
    have alike, and devices samples/devices ... -> samples ..."""
    return jax.tree.map(
        lambda leaf: leaf[0] if leaf.ndim == 1 else leaf.reshape(-1, *leaf.shape[2:]), metrics
    )
