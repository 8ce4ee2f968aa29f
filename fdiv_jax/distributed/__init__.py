"""One function on one device, or on many that share a batch: by pmap, or by jit over a mesh."""

from fdiv_jax.distributed.data_parallel import Axis, DataParallel, SingleDevice
from fdiv_jax.distributed.mesh import DataMesh, ShardedMesh
from fdiv_jax.distributed.runners import Parallel, Runner, devices_of, runner_of

__all__ = [
    "Axis",
    "DataMesh",
    "DataParallel",
    "Parallel",
    "Runner",
    "ShardedMesh",
    "SingleDevice",
    "devices_of",
    "runner_of",
]
