"""LoRA files: the layout of diffusers and PEFT, and that of kohya's scripts, which A1111 and ComfyUI read.

The same factors (`fdiv_jax.nn.lora`) of a layer P of the UNet, of rank r from inputs i to outputs o:

    diffusers   unet.P.lora_A.weight (r, i), unet.P.lora_B.weight (o, r); alpha as JSON in the file's metadata
    kohya       lora_unet_P.lora_down.weight, lora_unet_P.lora_up.weight, lora_unet_P.alpha; P with _ for .

and (r, i, h, w), (o, r, 1, 1) for a convolution. Text encoders are text_encoder and text_encoder_2 in the
first, lora_te (Stable Diffusion 1 and 2), lora_te1 and lora_te2 (XL) in the second. There the UNet's layers
of XL bear the names of the original code, input_blocks_4_1_..., as kohya's scripts write them and A1111
expects them; both ways of naming are read for every family.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdiv_jax.checkpoints.files import TensorFiles, cast, read_metadata, write_tensors
from fdiv_jax.checkpoints.original_names import Family, family, unet_original_name
from fdiv_jax.checkpoints.state_dicts import canonical_name, kernel_shapes, kernel_to_weight, weight_to_kernel
from fdiv_jax.files import parse_json
from fdiv_jax.nn import UNetConfig
from fdiv_jax.nn.lora import Lora

__all__ = ["load_lora", "save_lora"]

_METADATA = "lora_adapter_metadata"  # diffusers' key
_PARTS = {
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
}
_KOHYA_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
# What kohya's scripts write, and A1111 sorts files by.
_KOHYA_VERSION: dict[Family, tuple[str, str]] = {
    "sd1": ("sd_v1", "False"),
    "sd2": ("sd_v2", "True"),
    "sdxl": ("sdxl_base_v1-0", "False"),
}
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
        path: of the file, such as pytorch_lora_weights.safetensors, the name diffusers looks for in a
            directory.
        loras: by component: "unet", "text_encoder", "text_encoder_2".
        layout: "diffusers" or "kohya".
        unet_config: of the UNet, whose family names the layers; "kohya" needs it.
        dtype: of the factors: "float32", "float16", "bfloat16"; None: as they are.
        metadata: more entries for the file's header.
        overwrite: replace what is there.

    Raises:
        ValueError: no factors, an unknown component, layout or dtype, a missing `unet_config`, a value that
            the dtype cannot hold, or a path that does not end in .safetensors.
        FileExistsError: the file is there and `overwrite` is False.
    """
    unknown = sorted(set(loras) - set(_KOHYA_PREFIXES))
    if unknown or not loras:
        raise ValueError(
            f"components {', '.join(unknown) or 'none'}, expected some of {', '.join(_KOHYA_PREFIXES)}"
        )
    if layout not in _PARTS:
        raise ValueError(f"layout {layout!r}, expected one of {', '.join(_PARTS)}")
    tensors: dict[str, np.ndarray] = {}
    for component, lora in loras.items():
        stem = _diffusers_stem(component) if layout == "diffusers" else _kohya_stem(component, unet_config)
        for target in lora.targets:
            for part, factor in zip(_PARTS[layout], lora.pair(target), strict=True):
                name = f"{stem(target)}.{part}"
                tensors[name] = cast(name, kernel_to_weight(factor), dtype)
            if layout == "kohya":
                tensors[f"{stem(target)}.alpha"] = np.asarray(lora.alpha[target], np.float32)
    if layout == "diffusers":
        header = {_METADATA: json.dumps(_peft_config(loras), indent=2, sort_keys=True)}
    else:
        header = _kohya_header(loras, unet_config)
    return write_tensors(path, tensors, metadata={**header, **(metadata or {})}, overwrite=overwrite)


def load_lora(path: str | os.PathLike[str], modules: Mapping[str, nnx.Module]) -> dict[str, Lora]:
    """Read a LoRA file of either layout.

    Args:
        path: of the file.
        modules: what the file changes, by component ("unet", "text_encoder", "text_encoder_2"; others are
            passed over); they may be abstract. Names and shapes are checked against them.

    Returns:
        float32 factors by component, for those components that the file has some of.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, a tensor that belongs to no layer of the modules or does not fit it, or
            one without its other half; all named.
        NotImplementedError: weight-decomposed factors (DoRA).
    """
    path = Path(path)
    header = read_metadata(path)
    modules = {component: module for component, module in modules.items() if component in _KOHYA_PREFIXES}
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with TensorFiles([path]) as tensors:
        layout = "kohya" if any(name.startswith("lora_") for name in tensors) else "diffusers"
        layers = _kohya_layers(modules) if layout == "kohya" else _diffusers_layers(modules)
        unexpected = []
        for name in tensors:
            stem, _, part = name.partition(".") if layout == "kohya" else _split(name)
            layer = layers.get(stem) or layers.get(_canonical(stem, layers))
            if "dora_scale" in part or "lora_magnitude_vector" in part:
                raise NotImplementedError(f"{path}: {name} is of a DoRA; supported: LoRA")
            if layer is None or part not in (*_PARTS[layout], "alpha") or part in found.get(layer, {}):
                unexpected.append(name)
                continue
            found.setdefault(layer, {})[part] = tensors.scalar(name) if part == "alpha" else tensors[name]
    _complain(path, "of no layer of the model", unexpected)
    if not found:
        raise ValueError(f"{path} holds no factors, expected those of a LoRA")
    config = _read_peft_config(path, header)
    factors: dict[str, dict[str, Any]] = {}
    alphas: dict[str, dict[str, float]] = {}
    halves, misshapen = [], []
    shapes = {component: kernel_shapes(module) for component, module in modules.items()}
    for (component, target), parts in found.items():
        down, up = (parts.get(part) for part in _PARTS[layout])
        if down is None or up is None:
            halves.append(f"{component} {target}")
            continue
        shape = shapes[component][target]
        if not (down.ndim and down.size and up.size):
            misshapen.append(f"{component} {target}: {down.shape} and {up.shape}, of rank 0")
            continue
        rank = down.shape[0]
        expected = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
        if any(_bare(value.shape) != _bare(each) for value, each in zip((down, up), expected, strict=True)):
            misshapen.append(f"{component} {target}: {down.shape} and {up.shape} for a weight {shape}")
            continue
        for part, value, each in zip(("lora_down", "lora_up"), (down, up), expected, strict=True):
            kernel = weight_to_kernel(value.reshape(each).astype(np.float32))
            factors.setdefault(component, {})[f"{target}.{part}.kernel"] = jnp.asarray(kernel)
        alpha = float(parts["alpha"]) if "alpha" in parts else _peft_alpha(config, component, target, rank)
        alphas.setdefault(component, {})[target] = alpha
    _complain(path, "without their other half", halves)
    _complain(path, "misshapen", misshapen)
    return {component: Lora(factors[component], alphas[component]) for component in factors}


def _diffusers_stem(component: str):
    return lambda target: f"{component}.{target}"


def _kohya_stem(component: str, config: UNetConfig | None):
    if config is None:
        raise ValueError("the layout 'kohya' needs unet_config, which says the family of names")
    xl = family(config) == "sdxl"
    prefix = _KOHYA_PREFIXES[component][-1 if xl else 0]
    rename = unet_original_name(config) if xl and component == "unet" else str
    return lambda target: prefix + rename(target).replace(".", "_")


def _split(name: str) -> tuple[str, str, str]:
    """unet.P.lora_A.weight -> unet.P, ".", lora_A.weight."""
    found = re.fullmatch(r"(.+)\.((?:lora|dora)_.+)", name)
    return (found[1], ".", found[2]) if found else (name, "", "")


def _canonical(stem: str, layers: Mapping[str, Any]) -> str:
    """Text encoders are named with and without a leading text_model."""
    component, _, target = stem.partition(".")
    own = {name.partition(".")[2]: "" for name in layers if name.startswith(f"{component}.")}
    return f"{component}.{canonical_name(target, own)}"


def _diffusers_layers(modules: Mapping[str, nnx.Module]) -> dict[str, tuple[str, str]]:
    return {f"{c}.{target}": (c, target) for c, module in modules.items() for target in kernel_shapes(module)}


def _kohya_layers(modules: Mapping[str, nnx.Module]) -> dict[str, tuple[str, str]]:
    """Every name that a layer can have in kohya's layout."""
    layers = {}
    for component, module in modules.items():
        renames: list[Callable[[str], str]] = [str]
        if component == "unet":
            renames.append(unet_original_name(module.config))  # type: ignore[attr-defined]
        else:  # diffusers' own converter, with the towers of transformers 5
            renames.append(lambda target: target.removeprefix("text_model."))
        for target in kernel_shapes(module):
            for prefix in _KOHYA_PREFIXES[component]:
                for rename in renames:
                    layers[prefix + rename(target).replace(".", "_")] = (component, target)
    return layers


def _peft_config(loras: Mapping[str, Lora]) -> dict[str, Any]:
    """What peft.LoraConfig is made from, each key with its component.

    Names are without text_model, which the text encoders of transformers 5 lack; PEFT matches name endings.
    """
    config: dict[str, Any] = {}
    for component, lora in loras.items():
        short = {target: target.removeprefix("text_model.") for target in lora.targets}
        ranks = {short[target]: lora.rank(target) for target in lora.targets}
        alphas = {short[target]: lora.alpha[target] for target in lora.targets}
        rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
        values = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {_exactly(name): r for name, r in ranks.items() if r != rank},
            "alpha_pattern": {_exactly(name): a for name, a in alphas.items() if a != alpha},
            "target_modules": sorted(short.values()),
        }
        config.update({f"{component}.{key}": value for key, value in values.items()})
    return config


def _exactly(name: str) -> str:
    """A key of PEFT's patterns, which are regular expressions for the end of a layer's name."""
    return name.replace(".", r"\.")


def _read_peft_config(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    if _METADATA not in header:
        return {}
    config = parse_json(header[_METADATA], f"{path}: {_METADATA}")
    if not isinstance(config, dict):
        raise ValueError(f"{path}: {_METADATA} is {type(config).__name__}, expected an object")
    if any(value for key, value in config.items() if key.endswith(".use_dora")):
        raise NotImplementedError(f"{path}: use_dora; supported: LoRA")
    return config


def _peft_alpha(config: Mapping[str, Any], component: str, target: str, rank: int) -> float:
    """alpha as PEFT finds it: of the first pattern that the name ends in, else lora_alpha, else the rank."""
    alpha = config.get(f"{component}.lora_alpha", rank)
    for pattern, value in (config.get(f"{component}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", target):
            alpha = value
            break
    if config.get(f"{component}.use_rslora"):  # alpha / sqrt(rank)
        alpha = alpha * rank**0.5
    return float(alpha)


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


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Some files hold the matrices of a Linear as 1 x 1 convolutions, some the reverse."""
    return shape[:2] if set(shape[2:]) <= {1} else shape


def _complain(path: Path, what: str, names: list[str]) -> None:
    if names:
        rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
        raise ValueError(f"{path}: {len(names)} {what}: {'; '.join(names[:_MAX_LISTED])}{rest}")
