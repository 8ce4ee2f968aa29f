"""What a run will take on chips that are not here: memory, arithmetic, traffic, time.

For a TPU the step is compiled by the TPU's own compiler. For a GPU, whose compiler needs one, its figures are
those of a model: memory from the estimate that runs are checked with, arithmetic from XLA's count of the
step as it is before a compiler makes it faster, and traffic as if every product read its arguments once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from fdiv_jax.checkpoints import atomic_file
from fdiv_jax.compiling import traced_for
from fdiv_jax.distributed.chips import Topology, tpu_devices
from fdiv_jax.distributed.programs import Program, compiled_figures, wire_bytes
from fdiv_jax.distributed.runners import runner_of
from fdiv_jax.files import read_json
from fdiv_jax.nn import with_attention, with_remat
from fdiv_jax.nn.memory import BOUNDS, array_bytes, shapes_of
from fdiv_jax.nn.work import Work, work_of
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.memory import abstract_batch, abstract_state, training_bytes
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.prepare import prepare
from fdiv_jax.unlearning.state import Plan
from fdiv_jax.unlearning.step import make_reference, make_step

__all__ = ["Foresight", "Roofline", "StepCost", "largest_batch"]

_TRIES = 5
"""Checks of the largest batch at most."""
_MOST = 2**16
"""Samples a chip at most."""


@dataclass(frozen=True)
class StepCost:
    """What a step takes on each chip; bytes, FLOPs.

    Attributes:
        arguments: the model, the state, and the chip's share of the batch.
        temporaries: the most that is stored at once beside them.
        outputs: what does not take the place of an argument.
        code: the program itself, where there is one.
        memory: the most in all, over the step and the frozen model's part of it.
        between: what `memory` may turn out to be, least and most; equal where a compiler says it.
        flops: executed; those of the step's products where there is no program that fits.
        minimum: of the products and convolutions alone, with nothing computed twice.
        moved: to and from the chip's memory.
        collectives: bytes of the results of each kind of collective.
        fits: whether there is room.
        compiled: whether a compiler for the chip says so.
    """

    arguments: int
    temporaries: int
    outputs: int
    code: int
    memory: int
    between: tuple[int, int]
    flops: float
    minimum: float
    moved: float
    collectives: dict[str, int]
    fits: bool
    compiled: bool


@dataclass(frozen=True)
class Roofline:
    """The least seconds that a step can take, by what takes them.

    Attributes:
        arithmetic: at the chip's peak.
        memory: at the bandwidth of its memory.
        network: at that of its links.
    """

    arithmetic: float
    memory: float
    network: float

    @classmethod
    def of(cls, cost: StepCost, topology: Topology, dtype: str) -> Roofline:
        """That of a step.

        Source: Williams, Waterman, Patterson, Roofline, 2009.
        """
        chip = topology.chip
        return cls(
            cost.flops / chip.peak(dtype),
            cost.moved / chip.bandwidth,
            wire_bytes(cost.collectives, topology.count) / chip.link,
        )

    @property
    def seconds(self) -> float:
        """The longest of them: they go on at the same time."""
        return max(dataclasses.astuple(self))

    @property
    def bound(self) -> str:
        """What takes the longest."""
        times = dataclasses.asdict(self)
        return max(times, key=lambda name: times[name])


class Foresight:
    """The costs of a run's step on a topology, from the shapes of the model; nothing is computed there."""

    def __init__(
        self,
        pipe: TextToImagePipeline,
        config: UnlearningConfig,
        topology: Topology,
        cache: Path | None = None,
        *,
        quick: bool = False,
    ):
        """Look at a run of `config` on `topology`; what was compiled is kept in `cache`.

        `quick`: compile for a TPU with the compiler's least effort, and not as a run does.

        Raises:
            NotImplementedError: the closed-form edit, which has no steps; or without the compiler.
            ValueError: a topology that there is not; what does not fit the model, see `unlearn`.
        """
        if config.method == "edit":
            raise NotImplementedError("method 'edit' has no steps to plan; expected method 'descent'")
        self.topology, self.config, self.cache, self.quick = topology, config, cache, quick
        self.devices = tpu_devices(topology) if topology.chip.platform == "tpu" else []
        # Of the devices that are here: what they have to do with the run is resolved below.
        here = dataclasses.replace(
            config, remat="none", parallel=None, devices="single", batch_size=1, accumulation=1
        )
        self.prepared = prepare(pipe, here, model="only its shapes matter")
        self.unit = topology.count * config.accumulation
        self.check(config.batch_size)
        self._unet = pipe.unet
        self._works: dict[tuple[Plan, int], Work] = {}
        self.plan = self._plan(with_remat(pipe.unet, config.remat))

    @property
    def parallel(self) -> str:
        """How the chips share the work; `pmap` runs the program of `data`."""
        return "fsdp" if self.config.sharing == "fsdp" else "data"

    def check(self, batch: int) -> None:
        """Check that the chips divide a batch.

        Raises:
            ValueError: they do not.
        """
        if batch % self.unit:
            parts = self.config.accumulation
            beside = "" if parts == 1 else f" and an accumulation of {parts}"
            raise ValueError(
                f"batch of {batch} for the {self.topology.count} chips of {self.topology}{beside}; expected "
                f"a multiple of {self.unit}"
            )

    def cost(self, batch: int) -> StepCost:
        """The cost of a step of so many samples, over all chips.

        Raises:
            ValueError: the chips do not divide the batch.
        """
        self.check(batch)
        # Attention as it is written down computes nothing twice, where fused kernels do.
        plain = self._plan(with_attention(self._unet, "plain"))
        minimum = self._work(plain, batch // self.topology.count).flops
        return self._compiled(batch, minimum) if self.devices else self._modelled(batch, minimum)

    def _plan(self, unet: Any) -> Plan:
        return dataclasses.replace(
            self.prepared.plan, network=Network(unet), accumulation=self.config.accumulation
        )

    def _arguments(self, plan: Plan, batch: int) -> tuple[Any, Any, Any, Any, Any]:
        """Shapes of the state, the frozen parameters, the batch, the reference and the key."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        rows = abstract_batch(self.prepared, batch)
        reference = rows.latents if plan.reference == "frozen" else ()
        return abstract_state(self.prepared, key), shapes_of(self.prepared.frozen), rows, reference, key

    def _work(self, plan: Plan, rows: int) -> Work:
        """Of a step of so many samples on one chip, the frozen model's part included."""
        if (plan, rows) not in self._works:
            state, frozen, batch, reference, key = self._arguments(plan, rows)
            with traced_for(self.topology.chip.platform, divided=self.parallel == "fsdp"):
                look = work_of(make_reference(plan), frozen, batch, key)
                step = work_of(make_step(plan), state, frozen, batch, reference, key)
            self._works[plan, rows] = look + step
        return self._works[plan, rows]

    def largest(self, told: Callable[[int], object] = lambda batch: None) -> tuple[int, int] | None:
        """The largest batch that fits, over all chips, and its memory a chip; None: no batch does.

        Args:
            told: called with each batch before it is looked at.
        """

        def memory(rows: int) -> int:
            batch = rows * self.unit
            told(batch)
            if not self.devices:
                return sum(self._model_memory(rows * self.config.accumulation))
            found = self._step(batch)
            # The compiler decides; the sum of its figures is at times a little more than the program takes.
            return min(found.memory, room) if found.fits else max(found.memory, room + 1)

        room = self.topology.chip.memory
        found = largest_batch(memory, room, self.config.batch_size // self.unit)
        return None if found is None else (found[0] * self.unit, found[1])

    def _step(self, batch: int) -> Program:
        """The compiled step without the frozen model's part, which takes less memory."""
        runner, placed = self._runner()
        state, frozen, rows, reference, key = self._arguments(self.plan, batch)
        given = (runner.shapes(state), runner.shapes(frozen))
        given += (runner.shapes(rows, rows=True), runner.shapes(reference, rows=True))
        step = runner.compile(lambda axis: make_step(placed, axis=axis), step=True)
        return self._program(step.lower(*given, key), _held(given))

    def _runner(self) -> tuple[Any, Plan]:
        """What runs the step on the chips, and the plan as it runs it."""
        runner = runner_of(self.devices, "fsdp" if self.parallel == "fsdp" else "data")
        return runner, dataclasses.replace(self.plan, network=runner.network(self.plan.network))

    def _compiled(self, batch: int, minimum: float) -> StepCost:
        runner, placed = self._runner()
        state, frozen, rows, _, key = self._arguments(self.plan, batch)
        state, frozen, rows = runner.shapes(state), runner.shapes(frozen), runner.shapes(rows, rows=True)
        look = runner.compile(lambda axis: make_reference(placed)).lower(frozen, rows, key)
        seen = self._program(look, _held((frozen, rows)))
        own = self._step(batch)
        # What waits while the frozen model looks: the state, of which a chip has its share.
        waiting = _held(state)
        memory, fits = max(own.memory, seen.memory + waiting), own.fits and seen.fits
        if fits:  # the sum of the compiler's figures is at times a little more than the program takes
            memory = min(memory, self.topology.chip.memory)
        work = self._work(self.plan, batch // self.topology.count)
        # XLA counts the body of a loop once, and fused kernels not at all: what the other rounds and the
        # kernels compute is added, and the traffic of the other rounds in proportion.
        loops = work.loops / work.once if work.once else 1.0
        flops = own.flops + seen.flops + work.flops - work.once
        moved = (own.moved + seen.moved) * loops
        parts = self.config.accumulation if self.parallel == "fsdp" else 1
        sent = {
            kind: parts * (size + seen.collectives.get(kind, 0)) for kind, size in own.collectives.items()
        }
        if not fits:  # there is no program to count
            flops, moved, sent = work.flops, work.moved, self._sent(state, frozen)
        return StepCost(
            own.arguments,
            own.temporaries,
            own.outputs,
            own.code,
            memory,
            (memory, memory),
            flops,
            minimum,
            moved,
            sent,
            fits,
            True,
        )

    def _model_memory(self, rows: int) -> tuple[int, int]:
        """Bytes of the arguments of a chip's step of so many samples, and those beside them, by the estimate
        that runs are checked with."""
        config = dataclasses.replace(
            self.prepared.config, batch_size=rows, accumulation=self.config.accumulation
        )
        local = dataclasses.replace(self.prepared, plan=self.plan, config=config)
        state, frozen, one, reference, _ = self._arguments(self.plan, rows)
        beside = array_bytes((state, one, reference))
        sharded = self.topology.count if self.parallel == "fsdp" else 1
        arguments = array_bytes((frozen, state)) // sharded + array_bytes((one, reference))
        return arguments, training_bytes([local]) - beside

    def _modelled(self, batch: int, minimum: float) -> StepCost:
        chips = self.topology.count
        rows = batch // chips
        state, frozen, one, reference, key = self._arguments(self.plan, rows)
        step = jax.jit(make_step(self.plan)).lower(state, frozen, one, reference, key)
        look = jax.jit(make_reference(self.plan)).lower(frozen, one, key)
        flops = sum(float((each.cost_analysis() or {}).get("flops", 0.0)) for each in (step, look))
        work = self._work(self.plan, rows)
        arguments, temporaries = self._model_memory(rows)
        memory = arguments + temporaries
        most, least = (arguments + round(temporaries / factor) for factor in BOUNDS)
        return StepCost(
            arguments,
            temporaries,
            0,
            0,
            memory,
            (least, most),
            flops + work.flops - work.once,
            minimum,
            work.moved,
            self._sent(state, frozen),
            memory <= self.topology.chip.memory,
            False,
        )

    def _sent(self, state: Any, frozen: Any) -> dict[str, int]:
        """Bytes of the results of each kind of collective, as a model has them."""
        if self.topology.count == 1:
            return {}
        sent = {"all-reduce": array_bytes(state.trained)}
        if self.parallel == "fsdp":  # for the frozen model, the trained one, and its derivative
            sent["all-gather"] = 3 * array_bytes(frozen) * self.config.accumulation
        return sent

    def _program(self, lowered: Any, held: int) -> Program:
        """What the compiler says of a program, from the cache where it was asked before."""
        if self.cache is None:
            return compiled_figures(lowered, held, quick=self.quick)
        path = self.cache / "plans" / f"{self._name(lowered)}.json"
        if path.exists():
            try:
                return Program(**read_json(path))
            except (OSError, ValueError, TypeError):  # half written, or of another version
                pass
        found = compiled_figures(lowered, held, quick=self.quick)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(found)))
        return found

    def _name(self, lowered: Any) -> str:
        """The program, the slice and the compiler, as a name.

        The program's text holds the shapes of the model and all that the configuration changes.
        """
        parts = [
            str(self.topology),
            f"quick={self.quick}",
            jax.__version__,
            version("jaxlib"),
            version("libtpu"),
        ]
        parts += [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
        return hashlib.sha256("\n".join([*parts, lowered.as_text()]).encode()).hexdigest()[:32]


def largest_batch(
    memory_of: Callable[[int], int], room: int, first: int, *, most: int = _MOST
) -> tuple[int, int] | None:
    """The largest number of samples a chip whose step fits, and its memory; None: not even one does.

    Two sizes give a line, which gives a third; that one is asked too, and the line goes on through it while
    it does not fit. So the answer fits, and a larger one is expected not to.

    Args:
        memory_of: bytes of a step of so many samples a chip.
        room: bytes that there are.
        first: a size to begin with.
        most: samples a chip at most.
    """
    known: dict[int, int] = {}

    def ask(rows: int) -> int:
        if rows not in known:
            known[rows] = memory_of(rows)
        return known[rows]

    first = min(max(1, first), most)
    second = min(2 * first, most) if ask(first) <= room else max(1, first // 2)
    ask(second)
    for _ in range(_TRIES):
        low = max((rows for rows, size in known.items() if size <= room), default=0)
        high = min((rows for rows, size in known.items() if size > room), default=most + 1)
        crossing = _crossing(known, room)
        if high - low <= 1 or (crossing is not None and low and crossing <= 1.02 * low):
            break
        if crossing is None or (high <= most and not low < crossing < high):
            crossing = (low + high) // 2
        ask(min(max(1, crossing), most))
    best = max((rows for rows, size in known.items() if size <= room), default=None)
    return None if best is None else (best, known[best])


def _crossing(known: dict[int, int], room: int) -> int | None:
    """Where a line meets the room, rounded down; None: it does not.

    It goes through the sizes on either side of the room, or the two that are nearest to it.
    """
    near = sorted(known, key=lambda rows: abs(known[rows] - room))
    pair = [next((rows for rows in near if (known[rows] <= room) == side), None) for side in (True, False)]
    ends = [rows for rows in pair if rows is not None] if None not in pair else near[:2]
    if len(ends) < 2:
        return None
    a, b = sorted(ends)
    slope = (known[b] - known[a]) / (b - a)
    return None if slope <= 0 else int(a + (room - known[a]) / slope)


def _held(tree: Any) -> int:
    """Bytes of a device's share of sharded shapes."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shard = jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
        total += array_bytes(shard)
    return total
