"""Reads and writes a pipeline as a diffusers directory.

model_index.json          which class each component is
unet/ vae/ text_encoder/  config.json and safetensors; text_encoder_2/ for Stable Diffusion XL
tokenizer/ scheduler/     as transformers and diffusers write them; tokenizer_2/ for XL
concepts.json             the concepts to unlearn (ours; other programs ignore it)
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from fdiv_jax.checkpoints import atomic_directory, load_component, save_component
from fdiv_jax.checkpoints.components import LoadedComponent, describe_component
from fdiv_jax.checkpoints.files import errors_from
from fdiv_jax.checkpoints.single_file import file_layout
from fdiv_jax.checkpoints.weight_files import has_weights
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.files import JsonMapping, check_regular, read_json
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
    UNetConfig,
    with_attention,
)
from fdiv_jax.nn.attention import Implementation, check_implementation
from fdiv_jax.pipeline.clip_tokenizer import check_tokenizer, load_tokenizer
from fdiv_jax.pipeline.concepts import read_concepts
from fdiv_jax.pipeline.finding import WORLDS, find_model, is_single_file
from fdiv_jax.pipeline.kept import USUALLY_KEPT, kept_components, write_kept
from fdiv_jax.pipeline.kinds import COMPONENTS, PIPELINES, class_name, pipeline_kind
from fdiv_jax.pipeline.one_file import describe_file, load_file, read_file
from fdiv_jax.pipeline.tokens import Tokenizer
from fdiv_jax.pipeline.vae_source import check_vae, load_vae
from fdiv_jax.terminal import printable

if TYPE_CHECKING:
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

_CLASSES: dict[str, Any] = {
    model.__name__: model
    for model in (UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection)
}
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_PRECISIONS = tuple(map(jnp.dtype, (jnp.float32, jnp.bfloat16, jnp.float16)))
_DIFFUSERS_VERSION = "0.42.1"
"""The version whose layout is written."""


def load_pipeline(
    model: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    vae: str | os.PathLike[str] | None = None,
    prediction_type: str | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    attention: Implementation = "auto",
    variant: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    weights: bool = True,
) -> TextToImagePipeline:
    """Load a text-to-image model: Stable Diffusion 1.x, 2.x or XL, those for inpainting, InstructPix2Pix and
    latent consistency models among them.

    Weights are read from safetensors, memory-mapped, and cast tensor by tensor; pickles are never opened.

    Args:
        model: "fashion" (the world in the package), a diffusers directory, a hub id "owner/model", or one
            file of safetensors in the original layout, as A1111 and ComfyUI keep models.
        config: for one file, a model of the same architecture, in any other of these forms: its
            configurations, tokenizer and scheduler are read, its weights are not. Without it they follow from
            the file's names and shapes, and what was found is said on stderr.
        vae: an autoencoder instead of the model's, or for a file without one: a file of safetensors in the
            original layout, a directory with its `config.json`, or a diffusers directory, whose vae it is.
        prediction_type: for one file without `config`: "epsilon" or "v_prediction", where the file does not
            say what its UNet predicts.
        dtype: the precision of the computation: float32, bfloat16 or float16, as a dtype or by its name;
            norms, softmax and time embedding stay in float32.
        param_dtype: the precision in which the parameters are kept.
        attention: the implementation of `fdiv_jax.nn.dot_product_attention`: auto, plain, blocked or library.
        variant: the variant of the weights' files, such as "fp16"; components without it are read without it.
        revision: the branch, tag or commit of a hub model.
        offline: take a hub model from the local cache only.
        weights: read the weights. Without, networks have shapes in their place (`jax.ShapeDtypeStruct`), and
            no more is needed of a directory or a hub model than its configurations.

    Raises:
        FileNotFoundError: no such directory or hub model, or one without `model_index.json` or a component.
        NotADirectoryError: a file that is no model.
        ValueError: `config` or `prediction_type` for a model that has its own; a file that is damaged,
            pickled, a part of a model or a LoRA, one that does not say what it predicts, tensors missing,
            left over or of another shape, or an unknown `attention` or precision.
        NotImplementedError: a kind of pipeline, component or file that is not supported.
    """
    from fdiv_jax.pipeline.text_to_image import TextToImagePipeline

    check_implementation(attention)
    dtype, param_dtype = _precision("dtype", dtype), _precision("param_dtype", param_dtype)
    file = _single_file(model, config, prediction_type)
    given = {"config": config, "vae": vae, "prediction_type": prediction_type}
    given |= {"variant": variant, "revision": revision}
    precisions = {"dtype": jnp.dtype(dtype).name, "param_dtype": jnp.dtype(param_dtype).name}
    given |= {key: name for key, name in precisions.items() if name != "float32"}
    settings: dict[str, Any] = {
        "name": str(model),
        "loaded_with": {name: str(value) for name, value in given.items() if value is not None},
    }
    if file is not None and config is None:
        found = describe_file(file, vae=vae, prediction_type=prediction_type)
        print(printable(found.told), file=sys.stderr)
        loaded = read_file(file, found, vae=vae, dtype=dtype, param_dtype=param_dtype, weights=weights)
        kind = found.model_index["_class_name"]
        scheduler, path, extras, tokenizers = found.scheduler, file, found.model_index, found.tokenizers
    else:
        directory = find_model(
            model if config is None else config,
            variant=variant,
            revision=revision,
            offline=offline,
            weights=weights,
        )
        check_regular(directory)
        index = read_json(directory / "model_index.json")
        kind = pipeline_kind(directory, index)
        entries = {name: _entry(directory, index, name) for name in PIPELINES[kind]}
        classes = {name: _CLASSES[entry[-1]] for name, entry in entries.items() if name not in _TOKENIZERS}
        if file is None:
            loaded = _of_directory(directory, classes, variant, vae, dtype, param_dtype, weights)
        else:
            loaded = _of_file(file, directory, classes, vae, dtype, param_dtype, weights)
        tokenizers = {name: load_tokenizer(directory / name) for name in entries if name in _TOKENIZERS}
        for tokenizer, encoder in zip(_TOKENIZERS, ("text_encoder", "text_encoder_2"), strict=True):
            if tokenizer in tokenizers:
                size = loaded[encoder].model.config.vocab_size
                check_tokenizer(directory / tokenizer, tokenizers[tokenizer], size)
        path = directory / "scheduler" / "scheduler_config.json"
        scheduler = read_json(path, finite=False)  # diffusers writes -Infinity
        extras = {key: value for key, value in index.items() if key not in COMPONENTS}
        settings["concepts"] = read_concepts(directory / "concepts.json")
        settings["kept"] = kept_components(directory, index, ("scheduler", *COMPONENTS), variant)
    components: dict[str, Any] = {
        name: each.model if attention == "auto" else with_attention(each.model, attention)
        for name, each in loaded.items()
    }
    process = scheduler
    if kind in ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline"):  # diffusers overrides the files
        components["unet"].config = _mended_size(components["unet"].config, loaded["unet"].config)
        process = {**scheduler, "steps_offset": 1}
        if kind == "StableDiffusionPipeline":  # latents are not clipped
            process["clip_sample"] = False
    with errors_from(path):
        schedule = NoiseSchedule.from_config(process)
    pipe = TextToImagePipeline(
        **components,
        **tokenizers,
        schedule=schedule,
        scheduler_config=scheduler,
        extras=extras,
        stored_dtypes={name: each.stored_dtypes for name, each in loaded.items()},
        **settings,
    )
    if (own := pipe.drawing_defaults).reason:
        print(printable(f"{model} draws with {own.told} unless told otherwise"), file=sys.stderr)
    return pipe


def _single_file(
    model: str | os.PathLike[str], config: str | os.PathLike[str] | None, prediction_type: str | None
) -> Path | None:
    """The file of a model of one file; None for the other forms of models."""
    single = str(model) not in WORLDS and is_single_file(model)
    if config is not None and not single:
        raise ValueError(
            f"config {str(config)!r} beside the model {str(model)!r}; expected it with a model of one file "
            "that ends in .safetensors"
        )
    if prediction_type is not None and (config is not None or not single):
        raise ValueError(
            f"prediction_type {prediction_type!r} beside the model {str(config or model)!r}, whose scheduler "
            "says it; expected it with a model of one file, without config"
        )
    if config is not None and Path(config).is_file():
        raise NotADirectoryError(f"config {str(config)!r} is a file, expected a diffusers directory")
    return Path(model) if single else None


Classes = Mapping[str, type[Any]]
Loaded = dict[str, LoadedComponent[Any]]


Place = str | os.PathLike[str]


def _of_directory(
    directory: Path,
    classes: Classes,
    variant: str | None,
    vae: Place | None,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    weights: bool,
) -> Loaded:
    """The networks of a directory, by component; the autoencoder is another one where `vae` names it."""
    own = {name: kind for name, kind in classes.items() if name != "vae" or vae is None}
    if not weights:
        return _described(directory, own, dtype, param_dtype) | _other_vae(vae, directory, dtype, param_dtype)
    variants = _variants(directory, own, variant)
    loaded = {
        name: load_component(
            directory / name, kind, variant=variants[name], dtype=dtype, param_dtype=param_dtype
        )
        for name, kind in own.items()
    }
    return loaded | _other_vae(vae, directory, dtype, param_dtype)


def _described(directory: Path, classes: Classes, dtype: DTypeLike, param_dtype: DTypeLike) -> Loaded:
    """Networks without weights, by component, as a directory's configurations describe them."""
    described = {
        name: describe_component(directory / name, kind, dtype=dtype, param_dtype=param_dtype)
        for name, kind in classes.items()
    }
    return {name: LoadedComponent(*each, {}) for name, each in described.items()}


def _of_file(
    file: Path,
    directory: Path,
    classes: Classes,
    vae: Place | None,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    weights: bool,
) -> Loaded:
    """The networks of one file, by component, configured as those of a directory."""
    with errors_from(file):
        check_vae(file_layout(file), vae)
    own = {name: kind for name, kind in classes.items() if name != "vae" or vae is None}
    loaded = _described(directory, own, dtype, param_dtype)
    if weights:
        loaded = load_file(file, loaded)
    return loaded | _other_vae(vae, directory, dtype, param_dtype)


def _other_vae(vae: Place | None, directory: Path, dtype: DTypeLike, param_dtype: DTypeLike) -> Loaded:
    """The autoencoder that `vae` names, with settings of the directory's own that a file does not show."""
    if vae is None:
        return {}
    own = read_json(directory / "vae" / "config.json")
    return {"vae": load_vae(vae, own, dtype=dtype, param_dtype=param_dtype)}


def _entry(directory: Path, index: JsonMapping, name: str) -> list[Any]:
    """The entry of a component in `model_index.json`: [library, class]."""
    library, expected = COMPONENTS[name]
    entry = index.get(name, [None, None])
    if name in _TOKENIZERS and name not in index:  # the folder says all
        return [library, expected]
    classes = (expected, f"{expected}Fast") if name in _TOKENIZERS else (expected,)
    if isinstance(entry, list) and entry and entry[-1] in classes:
        return entry
    missing = entry in ([None, None], None)
    found = "left out of model_index.json" if missing else repr(entry)
    raise NotImplementedError(f"{directory}: {name} is {found}, expected {[library, expected]}")


def _precision(name: str, dtype: DTypeLike) -> Any:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found not in _PRECISIONS:
        raise ValueError(f"{name} {dtype!r}, expected one of {', '.join(map(str, _PRECISIONS))}")
    return found


def _variants(directory: Path, networks: Iterable[str], variant: str | None) -> dict[str, str | None]:
    """The variant of each network's weights: None for a network without the variant, as in diffusers."""
    having = [name for name in networks if variant and has_weights(directory / name, variant)]
    return {name: variant if name in having or not having else None for name in networks}


def save_pipeline(
    pipeline: TextToImagePipeline, directory: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a directory that diffusers, A1111 and ComfyUI load, whole or not at all.

    A tensor that still has the value it was loaded with is written in the precision it was loaded from, bit
    for bit. Components that are not run here, such as a safety checker, are copied from where the pipeline
    was loaded.

    Args:
        pipeline: the pipeline to write.
        directory: the directory to write; must not exist, or be empty, unless `overwrite`.
        overwrite: replace an existing model, after the new directory is complete.

    Returns:
        The directory.

    Raises:
        FileExistsError: the directory is not empty and `overwrite` is False, or its content is not a model.
    """
    path = Path(directory)
    check_replaceable(path, overwrite)
    kind = class_name(pipeline)
    extra: dict[str, Any] = {name: [None, None] for name in USUALLY_KEPT}
    if pipeline.text_encoder_2 is not None:
        del extra["safety_checker"]
        extra["force_zeros_for_empty_prompt"] = pipeline.extras.get("force_zeros_for_empty_prompt", True)
    index = {
        "_class_name": kind,
        "_diffusers_version": _DIFFUSERS_VERSION,
        **extra,
        **{name: list(COMPONENTS[name]) for name in PIPELINES[kind]},
        "scheduler": ["diffusers", pipeline.scheduler_config.get("_class_name", "DDIMScheduler")],
    }
    with atomic_directory(path, overwrite=overwrite) as temporary:
        index |= write_kept(pipeline.kept, temporary)
        if pipeline.text_encoder_2 is None:
            needed = pipeline.extras.get("requires_safety_checker", True)
            index["requires_safety_checker"] = bool(needed) and index["safety_checker"] != [None, None]
        _write_json(temporary / "model_index.json", dict(sorted(index.items())))
        for name in PIPELINES[kind]:
            if name in _TOKENIZERS:
                _save_tokenizer(getattr(pipeline, name), temporary / name)
            else:
                dtypes = pipeline.stored_dtypes.get(name, {})
                save_component(temporary / name, getattr(pipeline, name), stored_dtypes=dtypes)
        (temporary / "scheduler").mkdir()
        _write_json(temporary / "scheduler" / "scheduler_config.json", pipeline.scheduler_config)
        if pipeline.concepts:
            entries = {name: concept.to_dict() for name, concept in pipeline.concepts.items()}
            _write_json(temporary / "concepts.json", entries)
    return path


def check_replaceable(path: Path, overwrite: bool) -> None:
    """Check that a directory to overwrite holds a model, or nothing.

    Raises:
        FileExistsError: the directory holds something else.
    """
    if overwrite and path.is_dir() and any(path.iterdir()) and not (path / "model_index.json").is_file():
        found = ", ".join(sorted(each.name for each in path.iterdir())[:4])
        raise FileExistsError(
            f"{path} holds {found} and no model_index.json; expected a model to overwrite, or a new directory"
        )


def _mended_size(config: UNetConfig, stored: JsonMapping) -> UNetConfig:
    """The configuration with 64 latents per side where a file from before diffusers 0.9 wrongly says less."""
    version = re.match(r"0\.(\d+)", str(stored.get("_diffusers_version", "")))
    if version and int(version[1]) < 9 and isinstance(config.sample_size, int) and config.sample_size < 64:
        return dataclasses.replace(config, sample_size=64)
    return config


def _save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write a tokenizer as transformers does, and the two files that older programs read."""
    tokenizer.save_pretrained(str(directory))
    if not (directory / "vocab.json").is_file():
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        (directory / "vocab.json").write_text(
            json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8"
        )
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")


def _write_json(path: Path, content: JsonMapping) -> None:
    path.write_text(json.dumps(content, indent=2, default=list) + "\n", encoding="utf-8")
