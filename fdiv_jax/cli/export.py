"""`fdiv-jax export MODEL --format FORMAT --output PATH`: a model, or its change, for other programs."""

import contextlib
import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from fdiv_jax.cli._candidates import pipeline_directory
from fdiv_jax.cli._loading import Files
from fdiv_jax.files import read_json
from fdiv_jax.pipeline.shared import Form, Shared, base_of

if TYPE_CHECKING:
    from fdiv_jax.nn.lora import ExtractedLora
    from fdiv_jax.pipeline import TextToImagePipeline

__all__ = ["Command", "cast_pipeline", "extract"]

_OF_CHANGES = ("lora", "kohya", "delta")
_OF_ONE_FILE = ("config", "vae", "prediction_type")
"""Options that complete a model of one file."""
_OF_FILES = ("variant", "revision", "param_dtype")
"""Options that say which weights are read, and in what precision they are kept."""


@dataclass(frozen=True)
class Command:
    """Write a model, or the change from its base, in a form that other programs read.

    diffusers: a directory. single-file: one checkpoint, for A1111, ComfyUI and diffusers. lora: the change as
    low-rank factors, as diffusers writes them. kohya: the same, for A1111 and ComfyUI. delta: the changed
    tensors, exactly. With --card or --push the same in a directory, with a README.md that says what it is.

    Example: fdiv-jax export runs/sneaker --push owner/name
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The model: a diffusers directory, a run directory of `fdiv-jax unlearn`, one .safetensors file, or
    `fashion`."""
    format: Form | None = None
    """The form to write: diffusers, single-file, lora, kohya or delta. Needed, unless --card or --push:
    then by default lora for a run that trained one, delta for any other, diffusers without a base."""
    output: Path | None = None
    """The directory (for diffusers, and with --card) or the file, with a name that ends in .safetensors.
    Needed, unless --push."""
    card: bool = False
    """Write a directory: the weights, and a model card with what the run did, how, and how to load it."""
    push: Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")] = None
    """The repository of the Hugging Face hub to push that directory to; it is made where there is none."""
    private: bool = False
    """Make a private repository, where there is none yet."""
    base: str | None = None
    """The model before tuning, for lora, kohya and delta; by default the one that the run directory names."""
    rank: int | None = None
    """The rank of a LoRA's changes of each layer; a layer of a lower rank keeps its whole change. By default
    that of the LoRA that the run trained, or else 16."""
    only: str = "full"
    """The changed parameters that a LoRA holds: cross-attn, attn, full, or a regular expression."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """The precision to write; by default float32, and for diffusers what each tensor was stored in."""
    overwrite: bool = False
    """Replace what is there."""
    files: Annotated[Files, tyro.conf.arg(name="")] = field(default_factory=Files)
    """How to load the model and its base."""

    def run(self) -> None:
        """Load the model and its base, write, push where that is asked for, and say what was written."""
        from fdiv_jax.terminal import Console

        model = pipeline_directory(self.model)
        command = self._settled(model)
        base = command._base(model)
        command._check_output()
        console = Console(stderr=True)
        files, base_files = command._files(base, model)
        with console.waiting(f"loading {model}") as tell:
            pipe = files.load(model)
            if base is not None:
                tell(f"loading {base}")
            before = None if base is None else base_files.load(base)
            if before is not None and self.base is None:
                _compare(before, Path(model))
            tell(f"writing {self.output or self.push}")
            for line in command._deliver(pipe, before, model):
                print(line)

    def _settled(self, model: str) -> "Command":
        """The command with the format and the rank that its model asks for, where it names none.

        Raises:
            ValueError: a format or an output that nothing else stands for is missing.
        """
        sharing = self.card or self.push is not None
        form, rank = self.format, _lora_rank(Path(model))
        if form is None and sharing and (self.base is not None or _named_base(Path(model)) is not None):
            form = "delta" if rank is None else "lora"
        elif form is None and sharing:
            form = "diffusers"
        if form is None:
            raise ValueError(f"--format is missing: one of {', '.join(get_args(Form))}; or add --card")
        if self.output is None and self.push is None:
            raise ValueError("--output is missing: the directory or the file to write")
        if self.private and self.push is None:
            raise ValueError("--private is of a repository: name it by --push OWNER/NAME")
        return dataclasses.replace(self, format=form, rank=self.rank if self.rank is not None else rank or 16)

    def _deliver(
        self, pipe: "TextToImagePipeline", base: "TextToImagePipeline | None", model: str
    ) -> Iterator[str]:
        """Write the file or the directory, or one with a card, which may be pushed; says what was done."""
        if not self.card and self.push is None:
            assert self.output is not None
            about, _ = self._write(pipe, base, self.output)
            yield f"{self.output}: {about}"
            return
        from fdiv_jax.cli._sharing import shared_directory
        from fdiv_jax.pipeline.uploading import upload

        with contextlib.ExitStack() as stack:
            place = self.output
            if place is None:
                place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"

            def write(output: Path) -> tuple[str, Shared]:
                public = None if base is None else base.replace(name=base_of(base.name).name)
                return self._write(pipe, public, output)

            about = shared_directory(
                place,
                write,
                Path(model),
                pipe,
                base,
                overwrite=self.overwrite,
                offline=self.push is None or self.files.offline,
            )
            if self.output is not None:
                yield f"{self.output}: {about}, and a model card"
            if self.push is not None:
                message = f"Upload {self.format} by fdiv-jax"
                address = upload(place, self.push, private=self.private or None, message=message)
                yield f"{address}: {about}, and a model card"

    def _write(
        self, pipe: "TextToImagePipeline", base: "TextToImagePipeline | None", output: Path
    ) -> tuple[str, Shared]:
        """Write the model in its form; says it in words, and what a card needs to know of it."""
        from fdiv_jax.checkpoints import save_delta, save_lora, save_single_file
        from fdiv_jax.checkpoints.unstated import unstated_settings

        assert self.format is not None
        assert self.rank is not None
        added = tuple((Path(file).name, strength) for file, strength in pipe.loras)
        shared = Shared(
            self.format, self.push or "", pipe.text_encoder_2 is not None, dtype=self.dtype, added=added
        )
        if self.format == "diffusers":
            cast_pipeline(pipe, self.dtype).save(output, overwrite=self.overwrite)
            return f"a diffusers directory, {_size(output)}", shared
        if self.format == "single-file":
            save_single_file(output, pipe.components, dtype=self.dtype, overwrite=self.overwrite)
            unstated = unstated_settings(pipe.components, pipe.schedule.prediction_type)
            for line in unstated:
                print(f"not in a single file: {line}", file=sys.stderr)
            about = f"a checkpoint in the original layout, {_size(output)}"
            return about, dataclasses.replace(shared, unstated=tuple(unstated))
        assert base is not None
        if self.format == "delta":
            save_delta(
                output,
                base.components,
                pipe.components,
                base_name=base.name,
                dtype=self.dtype,
                overwrite=self.overwrite,
            )
            return f"the tensors that differ from {base.name}, {_size(output)}", shared
        # diffusers gets alphas that differ by layer right from its own layout alone
        alpha = float(self.rank) if self.format == "kohya" else None
        found = extract(pipe, base, self.rank, self.only, alpha=alpha)
        _tell_of_lower_ranks(found, self.rank)
        save_lora(
            output,
            {component: each.lora for component, each in found.items()},
            layout="kohya" if self.format == "kohya" else "diffusers",
            unet_config=pipe.unet.config,
            dtype=self.dtype,
            overwrite=self.overwrite,
        )
        parts = (
            f"{component}, {len(each.lora.targets)} layers, {100 * each.error:.2g} % of the change left out"
            for component, each in found.items()
        )
        left_out = {component: each.error for component, each in found.items()}
        about = f"a LoRA of rank {self.rank} ({'; '.join(parts)}), {_size(output)}"
        return about, dataclasses.replace(shared, rank=self.rank, left_out=left_out)

    def _files(self, base: str | None, model: str) -> tuple[Files, Files]:
        """How to load the model and its base.

        A revision is that of the model, or of the base where the model is a directory; a variant that one of
        the two has no weights of is that of the other. LoRA files are added to the model; to the base those
        that a run directory says its run began with. Without a base that is named, the run's own is loaded as
        the run loaded it, and the model in the same precision.
        """
        own, other = self.files, dataclasses.replace(self.files, lora=self._loras_of_base(model))
        if self.base is None:
            recorded = {key: _recorded(Path(model), key) for key in (*_OF_ONE_FILE, *_OF_FILES)}
            known = {key: value for key, value in recorded.items() if isinstance(value, str)}
            other = dataclasses.replace(other, **(dict.fromkeys(_OF_ONE_FILE) | known | self._asked()))
            own = dataclasses.replace(own, param_dtype=other.param_dtype)
        elif Path(model).is_dir():
            own = dataclasses.replace(own, **dict.fromkeys(_OF_ONE_FILE))
        if not Path(model).is_dir():
            other = dataclasses.replace(other, revision=None)
        if base is not None and not own.fit(model) and other.fit(base):
            own = dataclasses.replace(own, variant=None)
        elif base is not None and not other.fit(base):
            other = dataclasses.replace(other, variant=None)
        return own, other

    def _asked(self) -> dict[str, Any]:
        """Which files, and in what precision: where it is said here, and not left to the run."""
        default = Files()
        asked = {key: getattr(self.files, key) for key in _OF_FILES}
        return {key: value for key, value in asked.items() if value != getattr(default, key)}

    def _loras_of_base(self, model: str) -> tuple[str, ...]:
        recorded = None if self.base is not None else _recorded(Path(model), "loras")
        if not isinstance(recorded, list):
            return ()
        return tuple(f"{file}:{strength}" for file, strength in recorded)

    def _base(self, model: str) -> str | None:
        if self.format not in _OF_CHANGES:
            if self.base is not None:
                raise ValueError(f"--base {self.base}: the format {self.format} is of the model alone")
            return None
        base = self.base or _named_base(Path(model))
        if base is None:
            _check_there(model)
            raise ValueError(
                f"the format {self.format} is of the change from a base model: name it by --base"
            )
        return pipeline_directory(base)

    def _check_output(self) -> None:
        from fdiv_jax.checkpoints import check_place
        from fdiv_jax.cli._sharing import check_shared
        from fdiv_jax.pipeline.directory import check_replaceable
        from fdiv_jax.pipeline.uploading import check_upload

        if self.push is not None:
            check_upload(self.push)
        if self.output is None:
            return
        sharing = self.card or self.push is not None
        directory = sharing or self.format == "diffusers"
        if not directory and self.output.suffix != ".safetensors":
            raise ValueError(f"--output {self.output}: expected a name that ends in .safetensors")
        check_place(self.output)
        if sharing:
            check_shared(self.output, self.overwrite)
        elif directory:
            check_replaceable(self.output, self.overwrite)
        if self.overwrite or not self.output.exists():
            return
        if not directory or not self.output.is_dir() or any(self.output.iterdir()):
            raise FileExistsError(f"{self.output} exists; name another --output, or add --overwrite")


def cast_pipeline(pipe: "TextToImagePipeline", dtype: str | None) -> "TextToImagePipeline":
    """The pipeline with every parameter rounded to `dtype`, and written in it; None leaves it as it is.

    Raises:
        ValueError: values that `dtype` cannot hold.
    """
    if dtype is None:
        return pipe
    import numpy as np

    from fdiv_jax.checkpoints import load_state_dict, state_dict
    from fdiv_jax.checkpoints.files import cast

    rounded, stored = {}, {}
    for component, module in pipe.components.items():
        tensors = {name: cast(name, value, dtype) for name, value in state_dict(module).items()}
        wide = {name: value.astype(np.float32) for name, value in tensors.items()}
        rounded[component] = load_state_dict(module, wide)
        stored[component] = dict.fromkeys(tensors, dtype)
    return pipe.replace(**rounded, stored_dtypes=stored)


def extract(
    pipe: "TextToImagePipeline",
    base: "TextToImagePipeline",
    rank: int,
    only: str = "full",
    *,
    alpha: float | None = None,
) -> dict[str, "ExtractedLora"]:
    """The change from `base` to `pipe` as a LoRA of each component that changed; see `extract_lora`.

    `only` is a named group of parameters, or a regular expression for names such as
    unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.kernel.

    Raises:
        ValueError: nothing changed, something changed that a LoRA cannot hold, or `only` matches nothing.
    """
    import numpy as np

    from fdiv_jax.nn.lora import extract_lora
    from fdiv_jax.unlearning import Network, select

    if set(pipe.components) != set(base.components):
        kinds = [", ".join(each.components) for each in (pipe, base)]
        raise ValueError(f"{pipe.name} has {kinds[0]}; its base {base.name} has {kinds[1]}")
    after, before = (
        {
            f"{component}.{name}": value
            for component, module in each.components.items()
            for name, value in Network.parameters(module).items()
        }
        for each in (pipe, base)
    )
    chosen = select(after, only).names
    changed = [name for name in chosen if not np.array_equal(after[name], before.get(name, np.nan))]
    components = {name.partition(".")[0] for name in changed}
    if not changed:
        raise ValueError(f"none of the {len(chosen)} parameters of {only!r} differs from {base.name}")
    if "vae" in components:
        raise ValueError("the autoencoder changed; a LoRA holds changes of the UNet and the text encoders")
    found = {}
    for component, module in pipe.components.items():
        if component in components:
            own = [name.partition(".")[2] for name in changed if name.startswith(f"{component}.")]
            frozen = Network.parameters(base.components[component])
            found[component] = extract_lora(frozen, Network.parameters(module), rank, own, alpha=alpha)
    return found


def _check_there(model: str) -> None:
    """Raises the error of loading a model that is not there, before anything else is asked for."""
    from fdiv_jax.pipeline import load_pipeline
    from fdiv_jax.pipeline.finding import WORLDS
    from fdiv_jax.pipeline.hub import is_hub_id

    if model not in WORLDS and not Path(model).exists() and not is_hub_id(model):
        load_pipeline(model)


def _tell_of_lower_ranks(found: Mapping[str, "ExtractedLora"], rank: int) -> None:
    """Say on stderr which layers have a lower rank than the one asked for."""
    lower = {
        f"{component}.{target}": each.lora.rank(target)
        for component, each in found.items()
        for target in each.lora.targets
        if each.lora.rank(target) < rank
    }
    if lower:
        shown = ", ".join(f"{name} ({own})" for name, own in list(lower.items())[:3])
        more = f" and {len(lower) - 3} more" if len(lower) > 3 else ""
        print(f"of a lower rank than {rank}, and kept whole: {shown}{more}", file=sys.stderr)


def _named_base(pipeline: Path) -> str | None:
    """The model that a run started from, as its config.json says."""
    return _recorded(pipeline, "name") or None


def _lora_rank(pipeline: Path) -> int | None:
    """The rank of the LoRA that a run trained; None: it trained none, or it is no run."""
    if _recorded(pipeline, "name") is None:
        return None
    lora = read_json(pipeline.parent / "config.json").get("config", {}).get("lora")
    rank = lora.get("rank") if isinstance(lora, dict) else None
    return rank if isinstance(rank, int) and rank > 0 else None


def _compare(base: "TextToImagePipeline", pipeline: Path) -> None:
    """Warns where the base is not, bit for bit, what the run started from."""
    from fdiv_jax.checkpoints import model_digest

    began = _recorded(pipeline, "sha256")
    if began is not None and began != model_digest(base.components):
        warnings.warn(
            f"{base.name} is not the model that the run of {pipeline} began with: it has changed, or the run "
            "is a later one of a sequence; what is written is the change from it as it is now",
            stacklevel=2,
        )


def _recorded(pipeline: Path, key: str) -> Any:
    """What the config.json of a run says of its model."""
    config = pipeline.parent / "config.json"
    if pipeline.name != "pipeline" or not config.is_file():
        return None
    try:
        return read_json(config)["model"].get(key)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _size(path: Path) -> str:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
