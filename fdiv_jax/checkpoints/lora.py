"""LoRA files: written in the layout of diffusers or of kohya's scripts, read in all common layouts.

The same factors (`fdiv_jax.nn.lora`) of a layer P, of rank r from inputs i to outputs o:

    diffusers   unet.P.lora_A.weight (r, i), unet.P.lora_B.weight (o, r); alpha as JSON in the file's header
                text_encoder.P.lora_linear_layer.down.weight, .up.weight
    kohya       lora_unet_P.lora_down.weight, lora_unet_P.lora_up.weight, lora_unet_P.alpha; P with _ for .

and (r, i, h, w), (o, r, 1, 1) for a convolution. Text encoders are text_encoder and text_encoder_2 in the
first, lora_te (Stable Diffusion 1 and 2), lora_te1 and lora_te2 (XL) in the second. There the UNet's layers
of XL have the names of the original code, input_blocks_4_1_..., as kohya's scripts write them and A1111
expects them. Everything else that is read is in `lora_names`.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.checkpoints.delta import DELTA
from fdiv_jax.checkpoints.files import TensorFiles, cast, is_pickle, read_metadata, write_tensors
from fdiv_jax.checkpoints.lora_names import KOHYA_PREFIXES, Layers, Part, other_kind, stated_family
from fdiv_jax.checkpoints.original_kinds import TITLES
from fdiv_jax.checkpoints.original_names import Family, family, unet_original_name
from fdiv_jax.checkpoints.peft_config import METADATA, PeftConfig, peft_metadata
from fdiv_jax.checkpoints.state_dicts import kernel_to_weight, weight_to_kernel, without_ones
from fdiv_jax.checkpoints.weight_files import LORAS
from fdiv_jax.files import listed
from fdiv_jax.nn import UNetConfig
from fdiv_jax.nn.lora import Lora

__all__ = ["load_lora", "save_lora"]

_LAYOUTS = ("diffusers", "kohya")
# The entries that kohya's scripts write, and by which A1111 sorts files.
_KOHYA_VERSION: dict[Family, tuple[str, str]] = {
    "sd1": ("sd_v1", "False"),
    "sd2": ("sd_v2", "True"),
    "sdxl": ("sdxl_base_v1-0", "False"),
}
_WIDTHS: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_CROSS_ATTENTION = re.compile(r"attn2.+to_[kv]\b.*(lora_A|down)\b.*weight|attn2.+to_[kv]_lora\.down\.weight")
_MAX_LISTED = 4


def save_lora(
    path: str | os.PathLike[str],
    loras: Mapping[str, Lora],
    *,
    layout: Literal["diffusers", "kohya"] = "diffusers",
    unet_config: UNetConfig | None = None,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a LoRA file, whole or not at all.

    A program that knows the tensors of the diffusers layout alone, and not its metadata, takes alpha = rank.

    Args:
        path: the file, such as pytorch_lora_weights.safetensors, the name diffusers looks for in a directory.
        loras: factors by component: "unet", "text_encoder", "text_encoder_2".
        layout: "diffusers" or "kohya".
        unet_config: the UNet's configuration, whose family names the layers; "kohya" needs it.
        dtype: type of the factors: "float32", "float16", "bfloat16"; None: unchanged.
        metadata: more entries for the file's header.
        overwrite: replace an existing file.

    Raises:
        ValueError: no factors, an unknown component, layout or dtype, a missing `unet_config`, a value that
            the dtype cannot hold, or a path that does not end in .safetensors.
        NotImplementedError: magnitudes for each input in the diffusers layout, which holds those for each
            output.
        FileExistsError: the file exists and `overwrite` is False.
    """
    unknown = sorted(set(loras) - set(KOHYA_PREFIXES))
    if unknown or not loras:
        raise ValueError(
            f"components {', '.join(unknown) or 'none'}, expected some of {', '.join(KOHYA_PREFIXES)}"
        )
    if layout not in _LAYOUTS:
        raise ValueError(f"layout {layout!r}, expected one of {', '.join(_LAYOUTS)}")
    tensors: dict[str, np.ndarray] = {}
    for component, lora in loras.items():
        stem = _diffusers_stem(component) if layout == "diffusers" else _kohya_stem(component, unet_config)
        down, up = _part_names(component, layout)
        for target in lora.targets:
            for part, factor in zip((down, up), lora.pair(target), strict=True):
                name = f"{stem(target)}.{part}"
                tensors[name] = cast(name, kernel_to_weight(factor), dtype)
            if layout == "kohya":
                tensors[f"{stem(target)}.alpha"] = np.asarray(lora.alpha[target], np.float32)
            if target in lora.magnitudes:
                part, value = _stored_magnitude(lora, target, layout)
                tensors[f"{stem(target)}.{part}"] = cast(f"{stem(target)}.{part}", value, dtype)
    if layout == "diffusers":
        header = {METADATA: json.dumps(peft_metadata(loras), indent=2, sort_keys=True)}
    else:
        header = _kohya_header(loras, unet_config)
    return write_tensors(path, tensors, metadata={**header, **(metadata or {})}, overwrite=overwrite)


def load_lora(path: str | os.PathLike[str], modules: Mapping[str, nnx.Module]) -> dict[str, Lora]:
    """Read a LoRA file.

    Args:
        path: the file, or a directory in the layout of diffusers or PEFT.
        modules: the modules that the file changes, by component ("unet", "text_encoder", "text_encoder_2";
            others are passed over); they may be abstract. Names and shapes are checked against them.

    Returns:
        float32 factors (with the magnitudes of a DoRA) by component, for the components that the file
        changes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged or pickled file, one for another family of models, a tensor that does not
            belong to a layer of the modules, does not fit it or is not finite, or one without its other half;
            all named.
        NotImplementedError: another kind of file, such as a LoHa, a LoKr or a textual inversion; named.
    """
    path = _file(Path(path))
    header = read_metadata(path)
    with TensorFiles([path]) as tensors:
        if DELTA in header:
            raise NotImplementedError(f"{path} is a delta, expected a LoRA; apply_delta reads it")
        if kind := other_kind(tensors):
            raise NotImplementedError(f"{path} is {kind}; supported: LoRA and DoRA")
        layers = Layers(modules)
        _check_family(path, header, tensors, layers, modules)
        found, unexpected = _sorted_parts(path, tensors, layers)
    _complain(path, "of no layer of the model", unexpected)
    if not found:
        raise ValueError(f"{path} holds no factors, expected those of a LoRA")
    config = PeftConfig(path, header)
    made: dict[str, list[_Layer]] = {}
    halves, misshapen = [], []
    for (component, target), parts in found.items():
        if not {"down", "up"} <= set(parts):
            halves.append(f"{component} {target}")
            continue
        try:
            layer = _layer(target, parts, layers.shapes[component][target])
        except ValueError as error:
            misshapen.append(f"{component} {target}: {error}")
            continue
        if layer.alpha is None:
            layer = layer._replace(alpha=config.alpha(component, target, parts["down"].shape[0]))
        made.setdefault(component, []).append(layer)
    _complain(path, "without their other half", halves)
    _complain(path, "misshapen", misshapen)
    return {component: _joined(own) for component, own in made.items()}


def _file(path: Path) -> Path:
    """The file that a directory holds, where `path` is one.

    Raises:
        FileNotFoundError: the directory holds no such file, or more than one.
    """
    if not path.is_dir():
        return path
    for stem in LORAS:
        if (file := path / f"{stem}.safetensors").is_file():
            return file
    found = sorted(path.glob("*.safetensors")) or sorted(each for each in path.iterdir() if is_pickle(each))
    if len(found) == 1:
        return found[0]
    names = ", ".join(each.name for each in found[:_MAX_LISTED]) or "none"
    message = f"{path} is a directory of {len(found)} LoRA files ({names}), expected one"
    raise FileNotFoundError(message)


class _Layer(NamedTuple):
    """The parts of one layer, in our layouts."""

    target: str
    down: np.ndarray
    up: np.ndarray
    alpha: float | None
    magnitude: np.ndarray | None


def _sorted_parts(
    path: Path, tensors: TensorFiles, layers: Layers
) -> tuple[dict[tuple[str, str], dict[Part, np.ndarray]], list[str]]:
    """The tensors by layer and part, and the names of those that belong to no layer or part."""
    found: dict[tuple[str, str], dict[Part, np.ndarray]] = {}
    unexpected = []
    for name in tensors:
        place = layers.find(name)
        if place is None:
            unexpected.append(name)
            continue
        component, target, part = place
        value = tensors.scalar(name) if part == "alpha" else tensors[name]
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: tensor {name} has values that are not finite")
        parts = found.setdefault((component, target), {})
        if not np.array_equal(value, parts.setdefault(part, value)):  # some files name a layer in two ways
            raise ValueError(f"{path}: {name} is another {part} of {component} {target}, expected one")
    return found, unexpected


def _layer(target: str, parts: Mapping[Part, np.ndarray], shape: tuple[int, ...]) -> _Layer:
    """The parts of a layer whose weight has `shape` in PyTorch's layout.

    Raises:
        ValueError: parts whose shapes do not fit the weight.
    """
    down, up = parts["down"], parts["up"]
    if not (down.ndim and down.size and up.size):
        raise ValueError(f"{down.shape} and {up.shape}, of rank 0")
    rank = down.shape[0]
    expected = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
    if [without_ones(value.shape) for value in (down, up)] != [without_ones(each) for each in expected]:
        raise ValueError(f"{down.shape} and {up.shape} for a weight {shape}")
    kernels = [
        weight_to_kernel(value.reshape(each).astype(np.float32))
        for value, each in zip((down, up), expected, strict=True)
    ]
    alpha = float(parts["alpha"]) if "alpha" in parts else None
    return _Layer(target, kernels[0], kernels[1], alpha, _read_magnitude(parts, shape))


def _read_magnitude(parts: Mapping[Part, np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """(out,), or (in, 1) where LyCORIS took the norm for each input: dora_scale is then (1, in, ...).

    PEFT's vectors are always per output, of shape (1, out, 1, 1) for a convolution.
    """
    name: Part = "dora_scale" if "dora_scale" in parts else "magnitude"
    if name not in parts:
        return None
    value = parts[name].astype(np.float32)
    outputs, inputs = shape[:2]
    if name == "dora_scale" and value.shape[:2] == (1, inputs) and value.size == inputs and outputs > 1:
        return value.reshape(inputs, 1)
    if value.size != outputs:
        raise ValueError(f"magnitudes {value.shape} for a weight {shape}")
    return value.reshape(outputs)


def _joined(layers: list[_Layer]) -> Lora:
    factors, alphas, magnitudes = {}, {}, {}
    for layer in layers:
        factors[f"{layer.target}.lora_down.kernel"] = jnp.asarray(layer.down)
        factors[f"{layer.target}.lora_up.kernel"] = jnp.asarray(layer.up)
        alphas[layer.target] = layer.alpha
        if layer.magnitude is not None:
            magnitudes[layer.target] = jnp.asarray(layer.magnitude)
    return Lora(factors, alphas, magnitudes)


def _check_family(
    path: Path,
    header: Mapping[str, str],
    tensors: TensorFiles,
    layers: Layers,
    modules: Mapping[str, nnx.Module],
) -> None:
    """Check that a file is for the UNet's family of models.

    The width of the text that cross-attention takes tells the published families apart; where the file has no
    such layer, its header or its text encoders do.

    Raises:
        ValueError: another family.
    """
    if "unet" not in modules:
        return
    config: UNetConfig = modules["unet"].config  # type: ignore[attr-defined]
    own = family(config)
    shapes = layers.shapes["unet"].items()
    widths = sorted({shape[1] for name, shape in shapes if name.endswith(("attn2.to_k", "attn2.to_v"))})
    name = next((name for name in tensors if _CROSS_ATTENTION.search(name)), None)
    width = tensors[name].shape[1:2] if name else ()
    if width and widths and width[0] not in widths:
        told, known = (
            f"{one} ({TITLES[_WIDTHS[one]]})" if one in _WIDTHS else str(one) for one in (*width, widths[0])
        )
        raise ValueError(
            f"{path} is for a UNet that attends to text of width {told}, as {name} shows; the model attends "
            f"to a width of {known}"
        )
    stated = stated_family(header, tensors)
    if not width and stated is not None and stated != own:
        raise ValueError(f"{path} is for {TITLES[stated]}, the model is of the family {TITLES[own]}")


def _part_names(component: str, layout: str) -> tuple[str, str]:
    if layout == "kohya":
        return "lora_down.weight", "lora_up.weight"
    if component == "unet":
        return "lora_A.weight", "lora_B.weight"
    # diffusers finds PEFT's names in a text encoder only where its attention has some
    return "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"


def _diffusers_stem(component: str):
    return lambda target: f"{component}.{target}"


def _kohya_stem(component: str, config: UNetConfig | None):
    if config is None:
        raise ValueError("the layout 'kohya' needs unet_config, which says the family of names")
    xl = family(config) == "sdxl"
    prefix = KOHYA_PREFIXES[component][-1 if xl else 0]
    rename = unet_original_name(config) if xl and component == "unet" else str
    return lambda target: prefix + rename(target).replace(".", "_")


def _stored_magnitude(lora: Lora, target: str, layout: str) -> tuple[str, np.ndarray]:
    """The name and the tensor of a layer's magnitudes."""
    value = np.asarray(lora.magnitudes[target])
    spatial = (1,) * (lora.pair(target)[0].ndim - 2)
    if layout == "kohya":
        return "dora_scale", value.reshape(
            (1, len(value), *spatial) if value.ndim == 2 else (len(value), 1, *spatial)
        )
    if value.ndim == 2:
        raise NotImplementedError(
            f"{target} has magnitudes for each input; the layout 'diffusers' holds those for each output: "
            "expected 'kohya'"
        )
    return "lora_magnitude_vector", value.reshape(1, -1, *spatial) if spatial else value


def _kohya_header(loras: Mapping[str, Lora], config: UNetConfig | None) -> dict[str, str]:
    assert config is not None
    version, v2 = _KOHYA_VERSION[family(config)]
    ranks = {lora.rank(target) for lora in loras.values() for target in lora.targets}
    alphas = {lora.alpha[target] for lora in loras.values() for target in lora.targets}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(*ranks) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(*alphas) if len(alphas) == 1 else "Dynamic",
        "ss_base_model_version": version,
        "ss_v2": v2,
    }


def _complain(path: Path, what: str, names: list[str]) -> None:
    if names:
        raise ValueError(f"{path}: {len(names)} {what}: {listed(names, _MAX_LISTED)}")
