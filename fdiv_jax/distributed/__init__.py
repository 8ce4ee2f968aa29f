"""Data parallelism over several devices, by pmap."""

from fdiv_jax.distributed.data_parallel import DataParallel, SingleDevice

__all__ = ["DataParallel", "SingleDevice"]
