"""How programs are compiled: for which device, and with which options."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jaxlib
from jax.core import Tracer

__all__ = ["compiler_options", "divided", "jit", "platform", "traced_for"]

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)
_DIVIDED: ContextVar[bool] = ContextVar("divided", default=False)
_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
"""Products each by itself. Together with what is computed around them (LIBRARY_FUSION_TYPE_DOT) a step takes
hardly less time, but jaxlib 0.10.2 then reads beyond a right operand that is one number everywhere, such as
`x @ jnp.ones((n, m))`, and gives what lies there in memory."""


@contextlib.contextmanager
def traced_for(kind: str, *, divided: bool = False) -> Iterator[None]:
    """Trace programs for another kind of device than the default one: "cpu", "gpu", "tpu".

    `divided`: programs of the whole batch, which the compiler divides over several devices.
    """
    tokens = _TARGET.set(kind), _DIVIDED.set(divided)
    try:
        yield
    finally:
        _TARGET.reset(tokens[0])
        _DIVIDED.reset(tokens[1])


def divided() -> bool:
    """Whether the compiler will divide what is traced now over several devices; see `traced_for`."""
    return _DIVIDED.get()


def platform() -> str:
    """The kind of device that what is traced now will run on: the default one, or that of `traced_for`."""
    return _TARGET.get() or jax.default_backend()


def compiler_options(kind: str) -> dict[str, str] | None:
    """Options of XLA for programs of networks on such a device; None: its defaults.

    On a CPU, jaxlib 0.10 hands products, sums and convolutions to YNNPACK. Its products are fast, also of
    transposed matrices; its convolutions take up to 4 times as long as XLA's own, which are never much
    slower, so they stay with XLA. Times: benchmarks/results/convolutions.json.
    """
    if kind == "cpu" and jaxlib.__version__.startswith("0.10."):
        return {"xla_cpu_experimental_ynn_fusion_type": _FUSIONS}
    return None


def jit(function: Callable[..., Any], **settings: Any) -> Any:
    """`jax.jit` with `compiler_options` of the device at hand, which is asked for at the first call only.

    Within another traced function it is plain `jax.jit`: there the outermost one says how to compile.

    Args:
        function: to compile.
        settings: of `jax.jit`.
    """

    @functools.cache
    def compiled(kind: str) -> Any:
        return jax.jit(function, compiler_options=compiler_options(kind), **settings)

    inner = jax.jit(function, **settings)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((arguments, named)))
        return (inner if traced else compiled(platform()))(*arguments, **named)

    call.trace = lambda *arguments, **named: compiled(platform()).trace(*arguments, **named)  # type: ignore[attr-defined]
    call.lower = lambda *arguments, **named: compiled(platform()).lower(*arguments, **named)  # type: ignore[attr-defined]
    return call
