"""More than one device: data parallelism by pmap."""

from fdiv_jax.distributed.data_parallel import DataParallel, SingleDevice

__all__ = ["DataParallel", "SingleDevice"]
