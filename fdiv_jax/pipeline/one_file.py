"""A model of one file and nothing else: its family from names and shapes, the rest from the package.

Configurations follow from shapes (`checkpoints.original_shapes`) and from what the family's published models
set; tokenizer, scheduler and those settings ship in `assets`. What neither names nor shapes show (whether a
Stable Diffusion 2.x predicts the noise or v) is asked for, and what was found is said on one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
from jax.typing import DTypeLike

from fdiv_jax.assets import asset_directory
from fdiv_jax.checkpoints import load_single_file
from fdiv_jax.checkpoints.components import SMALLER, LoadedComponent
from fdiv_jax.checkpoints.files import Header, TensorFiles, errors_from, read_header
from fdiv_jax.checkpoints.original_kinds import TITLES, Layout, check_kind, check_types, model_family
from fdiv_jax.checkpoints.original_names import Family
from fdiv_jax.checkpoints.original_shapes import Shapes, below, tower_settings, unet_settings, vae_settings
from fdiv_jax.checkpoints.single_file import stored_dtypes
from fdiv_jax.files import JsonObject, read_json
from fdiv_jax.nn import (
    AutoencoderKL,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
    UNetConfig,
    abstract_network,
)
from fdiv_jax.nn.memory import array_bytes
from fdiv_jax.nn.room import require_room
from fdiv_jax.pipeline.clip_tokenizer import CLIP_TOKENS, published_tokenizer
from fdiv_jax.pipeline.kinds import Beside, beside
from fdiv_jax.pipeline.tokens import Tokenizer
from fdiv_jax.pipeline.vae_source import check_vae, load_vae

__all__ = ["PREDICTIONS", "OneFile", "describe_file", "load_file", "read_file"]

PREDICTIONS = ("epsilon", "v_prediction")
_STATED = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
"""The words of a header's `modelspec.prediction_type`."""
_ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
_STEPS = {875_000: "epsilon", 220_000: "epsilon", 110_000: "v_prediction"}
"""`global_step` in the published files of 2.0 base, 2.1 base and 2.1; diffusers knows the first."""
_BESIDE = {"nothing": "", "mask": " for inpainting", "image": " as InstructPix2Pix"}
_BASE_LATENTS, _BASE_PIXELS = 64, 512
"""The size of the models of Stable Diffusion 2.x that predict the noise."""


class OneFile(NamedTuple):
    """What one file was found to be."""

    family: Family
    layout: Layout
    configs: dict[str, JsonObject]
    """The configuration of each network, by component."""
    tokenizers: dict[str, Tokenizer]
    scheduler: JsonObject
    model_index: JsonObject
    told: str
    """The family, the prediction type and the reason for it, and the size, on one line."""


class _Prediction(NamedTuple):
    kind: str
    reason: str
    zero_snr: bool = False


def describe_file(
    file: Path, *, vae: str | os.PathLike[str] | None = None, prediction_type: str | None = None
) -> OneFile:
    """What a file is, by its header alone.

    Args:
        file: safetensors in the original layout.
        vae: where its autoencoder is, for a file without one.
        prediction_type: "epsilon" or "v_prediction", where the file does not say.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that is no model or a part of one, a structure that cannot be told, or
            a Stable Diffusion 2.x that does not say what it predicts.
        NotImplementedError: a model of another kind, or weights in fp8.
    """
    header = read_header(file)
    with errors_from(file):
        layout = check_kind(header.shapes)
        check_types(header.types)
        kind = model_family(header.shapes, layout)
        check_vae(layout, vae)
        configs = _configurations(header.shapes, layout, kind)
        takes = beside(UNetConfig.from_dict(configs["unet"]), configs["vae"].get("latent_channels", 4))
        prediction = _prediction(file, header, layout, kind, takes, prediction_type)
        published = _published(kind)
        if kind == "sd2" and prediction.kind == "epsilon":
            configs["unet"]["sample_size"], configs["vae"]["sample_size"] = _BASE_LATENTS, _BASE_PIXELS
        tokenizers = _tokenizers(published, configs)
    scheduler = {**published["scheduler"], "prediction_type": prediction.kind}
    if prediction.zero_snr and prediction.kind == "v_prediction":
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    size = configs["vae"]["sample_size"]
    title = TITLES[kind] + _BESIDE[takes]
    told = f"{file}: {title}, {prediction.kind} ({prediction.reason}), {size} px"
    if any(name.startswith(f"{layout.root}model_ema.") for name in header.shapes):
        told += "; its averages (EMA) are passed over"
    return OneFile(kind, layout, configs, tokenizers, scheduler, published["model_index"], told)


def read_file(
    file: Path,
    found: OneFile,
    *,
    vae: str | os.PathLike[str] | None,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    weights: bool = True,
) -> dict[str, LoadedComponent[Any]]:
    """The networks of a file, by component; with shapes in place of weights, where these are not asked for.

    Raises:
        ValueError: tensors that are missing, unexpected or misshapen.
        NotImplementedError: a configuration that is not supported.
    """
    kinds: dict[str, Any] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    own = {name: config for name, config in found.configs.items() if name != "vae" or vae is None}
    with errors_from(file):
        loaded: dict[str, LoadedComponent[Any]] = {
            name: LoadedComponent(
                abstract_network(kinds[name], config, dtype=dtype, param_dtype=param_dtype), config, {}
            )
            for name, config in own.items()
        }
    if weights:
        loaded = load_file(file, loaded)
    if vae is not None:
        loaded["vae"] = load_vae(vae, found.configs["vae"], dtype=dtype, param_dtype=param_dtype)
    return loaded


def load_file(file: Path, described: Mapping[str, LoadedComponent[Any]]) -> dict[str, LoadedComponent[Any]]:
    """The components with the weights of a file in place of their shapes, where memory allows."""
    modules = {name: each.model for name, each in described.items()}
    size = sum(array_bytes(nnx.state(module)) for module in modules.values())
    require_room(size, f"{file}: a model of its size", SMALLER)
    filled, dtypes = load_single_file(file, modules), stored_dtypes(file, modules)
    return {name: LoadedComponent(filled[name], described[name].config, dtypes[name]) for name in modules}


def _configurations(shapes: Shapes, layout: Layout, kind: Family) -> dict[str, JsonObject]:
    """The configuration of each network: what the family sets, and what shapes show."""
    published, root = _published(kind), layout.root
    configs = {
        "unet": {**published["unet"], **unet_settings(below(shapes, layout.unet), kind)},
        "vae": dict(published["vae"]),
    }
    if layout.vae is not None:
        configs["vae"] |= vae_settings(below(shapes, root + layout.vae))
    towers = {
        "sd1": {"text_encoder": "cond_stage_model.transformer."},
        "sd2": {"text_encoder": "cond_stage_model.model."},
        "sdxl": {
            "text_encoder": "conditioner.embedders.0.transformer.",
            "text_encoder_2": "conditioner.embedders.1.model.",
        },
    }[kind]
    for name, prefix in towers.items():
        tower = below(shapes, root + prefix)
        if layout.bare:
            tower = {f"text_model.{key}": shape for key, shape in tower.items()}
        configs[name] = {
            **published[name],
            **tower_settings(tower, kind, open_clip=prefix.endswith(".model.")),
        }
    if kind == "sdxl":
        pooled = configs["text_encoder_2"]["projection_dim"]
        sizes = configs["unet"]["projection_class_embeddings_input_dim"] - pooled
        if sizes <= 0 or sizes % 6:
            raise ValueError(
                f"a UNet whose label_emb takes {sizes + pooled} numbers, expected the width {pooled} of "
                "the pooled text and six sizes of one width"
            )
        configs["unet"]["addition_time_embed_dim"] = sizes // 6
    groups, widths = configs["unet"]["norm_num_groups"], configs["unet"]["block_out_channels"]
    if any(width % groups for width in widths):
        raise ValueError(
            f"a UNet of {widths} channels, expected multiples of {groups}, the groups of the family's norms; "
            "a model of other groups loads beside its configurations, by --config"
        )
    return configs


def _tokenizers(published: JsonObject, configs: Mapping[str, JsonObject]) -> dict[str, Any]:
    """The tokenizers of the family, with the lengths of the text towers."""
    found = {}
    for name, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if name not in published:
            continue
        size = configs[encoder]["vocab_size"]
        if size != CLIP_TOKENS:
            raise ValueError(
                f"{encoder} with a vocabulary of {size} tokens, expected the {CLIP_TOKENS} of CLIP's; a "
                "model with a tokenizer of its own loads beside a directory that has it, by --config"
            )
        length = configs[encoder]["max_position_embeddings"]
        found[name] = published_tokenizer(published[name]["pad_token"], length)
    return found


def _prediction(
    file: Path, header: Header, layout: Layout, kind: Family, takes: Beside, given: str | None
) -> _Prediction:
    """What the UNet predicts, and the reason for it."""
    names = {"v_pred", "ztsnr", "global_step"} & {name.removeprefix(layout.root) for name in header.shapes}
    zero = "ztsnr" in names
    if given is not None:
        if given not in PREDICTIONS:
            raise ValueError(f"prediction_type {given!r}, expected {' or '.join(PREDICTIONS)}")
        return _Prediction(given, "as asked for", zero)
    stated = header.metadata.get("modelspec.prediction_type", "").strip().lower().replace("-", "_")
    if stated:
        if stated not in _STATED:
            raise ValueError(f"modelspec.prediction_type is {stated!r} in its header, expected epsilon or v")
        return _Prediction(_STATED[stated], "its header says so", zero)
    if "v_pred" in names:
        return _Prediction("v_prediction", "it has the mark v_pred", zero)
    if kind != "sd2" or takes != "nothing":  # that for inpainting of 2.x was made from the one of 512 px
        return _Prediction("epsilon", "as the family's published models", zero)
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    if architecture in _ARCHITECTURES:
        return _Prediction(_ARCHITECTURES[architecture], f"its header says {architecture}")
    step = _global_step(file, header, layout) if "global_step" in names else None
    if step in _STEPS:
        return _Prediction(_STEPS[step], f"its global_step is {step}")
    raise ValueError(
        "a Stable Diffusion 2.x that does not say what it predicts: name it by --prediction-type "
        "(prediction_type=... in Python), epsilon for models of 512 px (2.0 base, 2.1 base), v_prediction "
        "for those of 768 px"
    )


def _global_step(file: Path, header: Header, layout: Layout) -> int | None:
    name = layout.root + "global_step" if layout.root + "global_step" in header.shapes else "global_step"
    with TensorFiles([file]) as tensors:
        return int(tensors.scalar(name)) if header.shapes[name] in ((), (1,)) else None


def _published(kind: Family) -> JsonObject:
    """What the family's published models set and shapes do not show."""
    return read_json(asset_directory("families") / f"{kind}.json")
