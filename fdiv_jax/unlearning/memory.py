"""The memory that runs take, from shapes alone, before anything is drawn or allocated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fdiv_jax.arrays import RandomKey
from fdiv_jax.nn.memory import array_bytes, peak_bytes, shapes_of
from fdiv_jax.nn.room import require_room
from fdiv_jax.pipeline.memory import latent_text
from fdiv_jax.unlearning.batch import Batch, Prior
from fdiv_jax.unlearning.run import compiled
from fdiv_jax.unlearning.state import TrainState, initial_state
from fdiv_jax.unlearning.step import make_step

if TYPE_CHECKING:
    from fdiv_jax.unlearning.prepare import Prepared

__all__ = ["abstract_batch", "abstract_state", "check_memory", "training_bytes"]

_ADVICE = (
    "expected a smaller batch_size, a larger accumulation, remat blocks, fewer trained parameters "
    "(lora.rank) or a model in bfloat16"
)


def check_memory(cells: Sequence[Prepared]) -> None:
    """Check that there is enough memory for runs that are made side by side.

    Raises:
        MemoryError: there is not; says how much is needed and how much is free.
    """
    first = cells[0]
    if first.config.method == "edit":
        return
    runs = "a run" if len(cells) == 1 else f"{len(cells)} runs side by side"
    what = f"{runs} with a batch of {first.config.batch_size}"
    require_room(training_bytes(cells), what, _ADVICE, first.devices[0])


def training_bytes(cells: Sequence[Prepared]) -> int:
    """Bytes that the steps of runs take on a device beside the model; on a CPU, whose devices share memory,
    on all of them together.

    On one device the step is the one that the loop calls, which is not traced again there.
    """
    first = cells[0]
    share = 1 if first.devices[0].platform == "cpu" else len(first.devices)
    copies = len(first.devices) if first.devices[0].platform == "cpu" else 1
    key = jax.eval_shape(lambda: jax.random.key(0))
    states = [abstract_state(cell, key) for cell in cells]
    batch = abstract_batch(first, first.config.batch_size // share)
    reference = batch.latents if first.plan.reference == "frozen" else ()
    step = make_step(first.plan) if first.config.sharing else compiled(first.plan, None, None)[2]
    within = peak_bytes(step, states[0], shapes_of(first.frozen), batch, reference, key)
    held = array_bytes(states) + array_bytes(batch) + array_bytes(reference)
    # The new state takes the place of the old one; but a critic that has learned stands beside the one it
    # was, which comes back where the model's gradient, taken against the new one, is not finite.
    replaced = array_bytes(states[0]) - array_bytes(states[0].critic)
    return copies * held + max(0, within - replaced)


def abstract_batch(prepared: Prepared, rows: int) -> Batch:
    """The shapes of a batch of the run."""
    pipe, config = prepared.pipe, prepared.config
    h, w, c = pipe.latent_shape
    text = latent_text(pipe, rows)
    latents, mask = _array(rows, h, w, c), _array(rows, h, w)
    tokens: tuple[jax.Array, ...] = ()
    if prepared.frozen.encoders:
        tokens = tuple(_array(rows, pipe.text_length, dtype=jnp.int32) for _ in pipe.text_towers)
    return Batch(
        latents=latents,
        target_text=text,
        anchor_text=text,
        mask=mask,
        position=_array(rows, dtype=jnp.int32),
        negative=_array(rows) if any(prepared.negative) else None,
        tokens=tokens,
        prior=Prior(latents, text, tokens, mask) if config.preservation.data else None,
    )


def abstract_state(prepared: Prepared, key: RandomKey) -> TrainState:
    """The shapes of the state of the run."""
    return jax.eval_shape(
        lambda frozen, key: initial_state(prepared.plan, frozen, prepared.config.learning_rate, key),
        prepared.frozen,
        key,
    )


def _array(*shape: int, dtype: DTypeLike = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)
