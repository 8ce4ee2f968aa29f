"""`fdiv-jax plan MODEL --topology v5e:2x4`: what a run takes on chips that are not here, before the bill."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fdiv_jax.cli._loading import Loading
from fdiv_jax.cli._tables import print_report, print_table
from fdiv_jax.cli._unlearning_options import configured
from fdiv_jax.files import JsonObject, default_cache
from fdiv_jax.unlearning import UnlearningConfig

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline
    from fdiv_jax.terminal import Console
    from fdiv_jax.unlearning.foresight import Foresight, Roofline, StepCost

__all__ = ["HELP", "SHORT", "Command", "default"]

HELP = {
    "where": ("topology", "parallel"),
    "what to plan": ("batch-size", "steps", "remat", "accumulation", "trainable", "dtype", "param-dtype"),
    "output": ("json", "largest", "quick"),
}
SHORT = {"--batch": "--batch-size"}
_STEPS = 500
_ANY = "any concept of the model"


@dataclass(frozen=True)
class Command:
    """What a run takes on chips that are not here: memory, FLOPs, traffic, time, and the largest batch.

    For a TPU the step is compiled by the TPU's own compiler (extra `tpu`), which needs no TPU. For a GPU the
    figures are those of a model. Only the shapes of MODEL play a part: its weights are not read.

    Example: fdiv-jax plan fashion --topology v5e:2x4 --batch 16
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: `fashion` (the embedded world), a diffusers directory, one .safetensors file, or a hub
    id."""
    config: Annotated[UnlearningConfig, tyro.conf.arg(name="")]
    """What to unlearn and how."""
    topology: Annotated[str, tyro.conf.arg(metavar="CHIPS")]
    """The chips: a TPU with the shape of its slice, such as v5e:2x4 or v4:2x2x1, or a GPU with their number,
    such as h100 or a100:8."""
    largest: bool = True
    """Look for the largest batch that fits, which compiles the step a few times more."""
    quick: bool = False
    """Compile for a TPU with the compiler's least effort: for a full-size model minutes instead of half an
    hour. A first look: the program of the run takes other memory, and moves other bytes."""
    json: bool = False
    """Print JSON instead of tables."""
    cache: Path | None = None
    """Directory where compiled figures are kept; by default FDIV_JAX_CACHE or the user's cache directory."""
    loading: Annotated[Loading, tyro.conf.arg(name="")] = field(default_factory=Loading)
    """How to load the model."""

    def run(self) -> None:
        """Load the model, compile its step, and print what follows."""
        import jax

        from fdiv_jax.distributed.chips import topology_of
        from fdiv_jax.terminal import Console
        from fdiv_jax.unlearning.foresight import Foresight, Roofline

        topology = topology_of(self.topology)
        if topology.chip.platform == "tpu":  # JAX cannot read a TPU's programs again where there is no TPU
            jax.config.update("jax_enable_compilation_cache", False)
        waiting = Console(stderr=True)
        with waiting.waiting(f"loading {self.model}") as change:
            pipe = self.loading.outline(self.model)
            cache = default_cache() if self.cache is None else self.cache
            foresight = Foresight(pipe, _with_target(self.config, pipe), topology, cache, quick=self.quick)
            verb = "compiling" if foresight.devices else "tracing"
            change(f"{verb} the step of {self.config.batch_size} images for {topology}")
            cost = foresight.cost(self.config.batch_size)
            most = None
            if self.largest:
                most = foresight.largest(
                    lambda batch: change(
                        f"{verb} the step of {batch} images for {topology}, to see if it fits"
                    )
                )
        roofline = Roofline.of(cost, topology, self.loading.dtype)
        report = _Report(self, foresight, cost, roofline, most)
        print_report(report, as_json=self.json)


class _Report:
    """What was foreseen, as plain data and as a table."""

    def __init__(
        self,
        command: Command,
        foresight: "Foresight",
        cost: "StepCost",
        roofline: "Roofline",
        most: tuple[int, int] | None,
    ) -> None:
        self.command, self.foresight, self.cost, self.most = command, foresight, cost, most
        self.roofline, self.topology = roofline, foresight.topology
        self.batch, self.steps = command.config.batch_size, command.config.steps

    @property
    def chip_hours(self) -> float:
        """Of all steps."""
        return self.steps * self.roofline.seconds * self.topology.count / 3600

    def facts(self) -> JsonObject:
        """Everything, ready for JSON."""
        chip = self.topology.chip
        return {
            "topology": str(self.topology),
            "chips": self.topology.count,
            "from": "compiler" if self.cost.compiled else "model",
            "quick": self.command.quick,
            "batch": self.batch,
            "parallel": self.foresight.parallel,
            "a chip": dataclasses.asdict(self.cost),
            "peaks": dataclasses.asdict(chip),
            "seconds": {**dataclasses.asdict(self.roofline), "step": self.roofline.seconds},
            "bound": self.roofline.bound,
            "images_per_second": self.batch / self.roofline.seconds,
            "steps": self.steps,
            "chip_hours": self.chip_hours,
            "largest_batch": None if self.most is None else self.most[0],
            "largest_batch_memory": None if self.most is None else self.most[1],
            "advice": self.advice(),
        }

    def advice(self) -> list[str]:
        """What to change where the batch does not fit; each is an option of `unlearn`."""
        if self.cost.fits:
            return []
        config, found = self.command.config, []
        if self.most is not None:
            found.append(f"--batch-size {self.most[0]}, the largest that fits")
        if self.topology.count > 1 and self.foresight.parallel != "fsdp":
            found.append("--parallel fsdp: each chip holds its share of the weights")
        if config.remat == "none":
            found.append("--remat blocks: fewer activations for a third more arithmetic")
        elif config.remat == "blocks":
            found.append("--remat full: the fewest activations")
        if self.batch // self.foresight.unit > 1:
            parts = config.accumulation * 2
            found.append(f"--accumulation {parts}: the batch in {parts} parts, one after the other")
        if self.command.loading.dtype == "float32":
            found.append("--dtype bfloat16: activations of half the size")
        if self.command.loading.param_dtype == "float32":
            found.append("--param-dtype bfloat16: weights of half the size")
        if config.trainable in ("full", "attn"):
            found.append("--trainable cross-attn, or --lora.rank 8: fewer moments of the optimiser")
        found.append("a topology with more memory a chip, or with --parallel fsdp more chips")
        return found

    def show(self, console: "Console") -> None:
        """Print the table and the advice."""
        from fdiv_jax.nn.room import spelled

        cost, chip, roofline = self.cost, self.topology.chip, self.roofline
        source = "the TPU compiler's figures" if cost.compiled else "figures of a model, not of a compiler"
        if cost.compiled and self.command.quick:
            source += " at its least effort, for a first look"
        share = self.foresight.parallel if self.topology.count > 1 else "one chip"
        console.print(
            f"{self.batch} images a step on {self.topology} ({share}), {self.command.loading.dtype}: {source}"
        )
        memory = f"{spelled(cost.memory)} of {spelled(chip.memory)}"
        if cost.between[0] != cost.between[1]:
            memory += f" ({spelled(cost.between[0])} to {spelled(cost.between[1])})"
        sent = {kind: size for kind, size in cost.collectives.items() if size}
        least = f"{cost.flops / cost.minimum:.2f} x the least, {_count(cost.minimum)}FLOP"
        times = dataclasses.asdict(roofline)
        rows = [
            ("memory", memory),
            ("  arguments", spelled(cost.arguments)),
            ("  temporaries", spelled(cost.temporaries)),
            ("  outputs and code", spelled(cost.outputs + cost.code)),
            ("arithmetic", f"{_count(cost.flops)}FLOP, {least}"),
            ("moved", spelled(round(cost.moved))),
            *((kind, spelled(size)) for kind, size in sent.items()),
            *((f"time of {_BOUND[name]}", f"{1e3 * value:.3g} ms") for name, value in times.items()),
        ]
        print_table(console, "a step, on each chip", ("", ""), rows)
        hours = self.chip_hours
        console.print(
            f"at most {self.batch / roofline.seconds:,.4g} images/s, bound by {_BOUND[roofline.bound]}; "
            f"{self.steps} steps cost at least {hours:.2g} chip-hours"
        )
        if self.command.largest:
            if self.most is None:
                console.print("no batch fits: not even one image a chip")
            else:
                console.print(
                    f"the largest batch found to fit: {self.most[0]:,} "
                    f"({self.most[0] // self.topology.count:,} a chip, {spelled(self.most[1])})"
                )
        if not cost.fits and cost.compiled:
            console.print("no program was made: all figures but those of memory are of a model")
        if not cost.fits:
            console.print(f"a batch of {self.batch:,} does not fit; what would help:")
        for each in self.advice():
            console.print(f"  {each}")


_BOUND = {"arithmetic": "arithmetic", "memory": "the memory's bandwidth", "network": "the links"}


def _count(number: float) -> str:
    for unit, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:.3g} "


def _with_target(config: UnlearningConfig, pipe: "TextToImagePipeline") -> UnlearningConfig:
    """The configuration with something to unlearn: its shapes are those of any other target."""
    if config.target != _ANY:
        return config
    from fdiv_jax.unlearning.library import library_concepts

    known = tuple(pipe.concepts) or tuple(library_concepts())
    return dataclasses.replace(config, target=known[0])


def default(arguments: Sequence[str]) -> Command:
    """What options start from: the steps that a plan is for, and what a concept file or a preset names."""
    config = configured(arguments) or UnlearningConfig(target=_ANY, steps=_STEPS)
    return Command(tyro.MISSING, config, tyro.MISSING)
