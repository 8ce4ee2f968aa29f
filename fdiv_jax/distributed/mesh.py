"""Functions under `jax.jit` over a mesh of devices: the batch shared out, the weights copied or sharded.

The mesh has two axes, `data` and `fsdp`. The samples of a batch lie along both; arrays that are sharded lie
along `fsdp`, whose devices belong to one process, and are copied along `data`. So every process holds all of
the state, and can write it down without asking the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fdiv_jax.arrays import Parameters, PyTree
from fdiv_jax.compiling import compiler_options, traced_for
from fdiv_jax.distributed.data_parallel import Make, NetworkFunction, joined

__all__ = ["DataMesh", "ShardedMesh", "local_rows"]

_AXES = ("data", "fsdp")
_ROWS, _COPY = PartitionSpec(_AXES), PartitionSpec()


def local_rows(size: int) -> slice:
    """The samples of a global batch of `size` that this process prepares: an equal share, in order."""
    share = size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


class DataMesh:
    """Functions that every device runs on its share of the batch; state and constants are copied.

    What a function averages by `jax.lax.pmean` over the axes passed to `make`, the gradient of what learns,
    is all that the devices tell each other.

    On virtual devices of a CPU a call returns when its work is done; see `DataParallel`.

    Raises:
        ValueError: processes with different numbers of devices.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        """Use `devices`, by default all those of all processes."""
        given = jax.devices() if devices is None else devices
        self.devices = sorted(given, key=lambda device: (device.process_index, device.id))
        self.count = len(self.devices)
        owners = [device.process_index for device in self.devices]
        each = [owners.count(process) for process in sorted(set(owners))]
        if len(set(each)) > 1:
            raise ValueError(f"processes with {each} devices; expected the same number in each")
        self.processes = len(each)
        self.mesh = self._mesh()
        self._share_threads = self.count > 1 and self.devices[0].platform == "cpu"

    def compile(self, make: Make, *, step: bool = False) -> Callable[..., PyTree]:
        """The function that `make` gives, compiled for the mesh; see `SingleDevice.compile`.

        Attributes:
            lower: of the compiled function, its program for arguments, placed or abstract.
        """
        programs: dict[PyTree, Callable[..., PyTree]] = {}

        def program(arguments: tuple[PyTree, ...]) -> PyTree:
            specs = tuple(_spec(argument) for argument in arguments)
            if specs not in programs:
                function = self._program(make, step, specs)
                options = compiler_options(self.devices[0].platform)
                programs[specs] = jax.jit(
                    function, donate_argnums=(0,) if step else (), compiler_options=options
                )
            return programs[specs]

        def call(*arguments: PyTree) -> PyTree:
            key = np.asarray(jax.random.key_data(arguments[-1]))
            with self._tracing():
                found = program(arguments[:-1])(*arguments[:-1], key)
            return jax.block_until_ready(found) if self._share_threads else found

        def lower(*arguments: PyTree) -> PyTree:
            key = jax.eval_shape(jax.random.key_data, arguments[-1])
            with self._tracing():
                return program(arguments[:-1]).lower(*arguments[:-1], key)

        call.lower = lower  # type: ignore[attr-defined]
        return call

    def replicate(self, tree: PyTree) -> PyTree:
        """A state or constants, placed where the functions read them."""

        def put(leaf: PyTree) -> jax.Array:
            sharding = self._sharding(leaf)
            if self.processes == 1:
                return jax.device_put(leaf, sharding)
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(put, tree)

    def shard(self, batch: PyTree) -> PyTree:
        """The rows of a batch that this process prepares (see `local_rows`), as its part of the global one.

        Raises:
            ValueError: the number of devices does not divide the global batch.
        """
        sharding = NamedSharding(self.mesh, _ROWS)

        def place(leaf: PyTree) -> jax.Array:
            rows = leaf.shape[0] * self.processes
            if rows % self.count:
                raise ValueError(f"batch of {rows} for {self.count} devices; expected a multiple of them")
            if self.processes == 1:
                return jax.device_put(leaf, sharding)
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), (rows, *leaf.shape[1:]))

        return jax.tree.map(place, batch)

    def shapes(self, tree: PyTree, *, rows: bool = False) -> PyTree:
        """What `replicate`, or with `rows` `shard` of a global batch, would give, as shapes for `lower`."""

        def shape(leaf: Any) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(self.mesh, _ROWS) if rows else self._sharding(leaf)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(shape, tree)

    def metrics(self, metrics: PyTree) -> PyTree:
        """The metrics of the global batch, on the host, samples in the order of the batch."""
        return joined(self.fetch(metrics))

    def fetch(self, tree: PyTree) -> PyTree:
        """A state as one device would hold it, on the host."""
        return jax.tree.map(_whole, tree)

    def network(self, network: NetworkFunction) -> NetworkFunction:
        """The network as the functions call it."""
        return network

    def _tracing(self) -> AbstractContextManager[None]:
        return traced_for(self.devices[0].platform)

    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices).reshape(-1, 1), _AXES)

    def _sharding(self, leaf: PyTree) -> NamedSharding:
        """Where an array of the state or the constants lies."""
        return NamedSharding(self.mesh, _COPY)

    def _program(self, make: Make, step: bool, specs: tuple[PartitionSpec, ...]) -> Callable[..., PyTree]:
        """The function, before it is compiled, for arguments that lie so; in place of the key its data."""
        function = make(_AXES)

        def share(*arguments: PyTree) -> PyTree:
            found = function(*arguments[:-1], jax.random.wrap_key_data(arguments[-1]))
            # a figure of the batch gets the devices' axis, by which `metrics` knows it from those of samples
            return (found[0], jax.tree.map(lambda leaf: leaf[None], found[1])) if step else found

        # An average is made where the function asks for it and nowhere else: with `check_vma` the
        # derivative for what is copied would be a sum over the devices already.
        mapped = jax.shard_map(
            share,
            mesh=self.mesh,
            in_specs=(*specs, _COPY),
            out_specs=(_COPY, _ROWS) if step else _ROWS,
            check_vma=False,
        )

        def program(*arguments: PyTree) -> PyTree:
            found = mapped(*arguments)
            return (found[0], self._told(found[1])) if step else found

        return program

    def _told(self, metrics: PyTree) -> PyTree:
        """Figures placed so that every process can read all of them."""
        spec = _ROWS if self.processes == 1 else _COPY
        return jax.lax.with_sharding_constraint(metrics, NamedSharding(self.mesh, spec))


class ShardedMesh(DataMesh):
    """Functions of the whole batch, which the compiler divides over the devices; large arrays are sharded.

    An array of the state or the constants lies along its largest axis that the devices of a process divide;
    small ones are copied. The parameters of a network are gathered where it reads them, and again for its
    derivative (`network`), so that a device holds its share of them and those of the layers at work.

    Source: Zhao et al., PyTorch FSDP, 2023; Xu et al., GSPMD, 2021.
    """

    SMALL = 1024
    """Numbers in an array up to which every device has a copy."""

    def metrics(self, metrics: PyTree) -> PyTree:
        """The metrics of the global batch, on the host, samples in the order of the batch."""
        return self.fetch(metrics)

    def network(self, network: NetworkFunction) -> NetworkFunction:
        """The network with its parameters gathered as it reads them and not kept for its derivative."""
        return Gathered(network, NamedSharding(self.mesh, _COPY))

    def _tracing(self) -> AbstractContextManager[None]:
        return traced_for(self.devices[0].platform, divided=self.count > 1)

    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices).reshape(self.processes, -1), _AXES)

    def _sharding(self, leaf: PyTree) -> NamedSharding:
        devices = self.mesh.shape["fsdp"]
        axes = [axis for axis, size in enumerate(leaf.shape) if size % devices == 0]
        spec = _COPY
        if devices > 1 and axes and leaf.size > self.SMALL:
            largest = max(axes, key=lambda axis: leaf.shape[axis])
            spec = PartitionSpec(*(None,) * largest, "fsdp")
        return NamedSharding(self.mesh, spec)

    def _program(self, make: Make, step: bool, specs: tuple[PartitionSpec, ...]) -> Callable[..., PyTree]:
        function = make(None)

        def place(leaf: jax.Array) -> jax.Array:
            return jax.lax.with_sharding_constraint(leaf, self._sharding(leaf))

        def rows(leaf: jax.Array) -> jax.Array:
            spec = _ROWS if leaf.ndim else _COPY
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        def program(*arguments: PyTree) -> PyTree:
            found = function(*arguments[:-1], jax.random.wrap_key_data(arguments[-1]))
            if not step:
                return jax.tree.map(rows, found)
            told = rows if self.processes == 1 else self._told
            return jax.tree.map(place, found[0]), jax.tree.map(told, found[1])

        return program


@dataclass(frozen=True)
class Gathered:
    """A network of sharded parameters.

    Attributes:
        network: as it is for whole parameters.
        whole: the sharding of an array of which every device has a copy.
    """

    network: NetworkFunction
    whole: NamedSharding

    def __call__(self, parameters: Parameters, *inputs: PyTree) -> jax.Array:
        """What the network gives."""

        def gather(parameters: Parameters, *inputs: PyTree) -> jax.Array:
            return self.network(jax.lax.with_sharding_constraint(parameters, self.whole), *inputs)

        return jax.checkpoint(gather, policy=_but_gathered)(parameters, *inputs)


def _but_gathered(primitive: Primitive, *_: object, **__: object) -> bool:
    """Keep every result for the derivative, except those of gathering, which is done again."""
    return primitive.name != "sharding_constraint"


def _spec(argument: PyTree) -> PartitionSpec:
    """Where the arrays of an argument lie: all of them alike, see `replicate` and `shard`."""
    leaves = jax.tree.leaves(argument)
    return leaves[0].sharding.spec if leaves else _COPY


def _whole(leaf: PyTree) -> np.ndarray:
    """An array of which this process holds every part, on the host."""
    if not isinstance(leaf, jax.Array):
        return np.asarray(leaf)
    shards = leaf.addressable_shards
    if shards[0].data.shape == leaf.shape:
        return np.asarray(shards[0].data)
    found = np.empty(leaf.shape, leaf.dtype)
    for shard in shards:
        found[shard.index] = shard.data
    return found
