"""The names of tensors in LoRA files, as training scripts write and have written them.

A name is that of a layer, then that of a part, in any of these ways:

    layer   unet.P  text_encoder.P  text_encoder_2.P         diffusers; P alone is the UNet's
            base_model.model.P, behind one of these or alone  PEFT
            unet.Q.processor.to_k                            diffusers' attention processors, until 2023
            text_encoder.Q.self_attn.to_k                    for transformers' k_proj, in the same files
            lora_unet_P, lora_te_P, lora_te1_P, lora_te2_P   kohya; P with _ for .
    part    .lora_A.weight, .lora_B.weight                   PEFT, with or without the adapter's name
            .lora.down.weight, _lora.down.weight             diffusers, for the UNet
            .lora_linear_layer.down.weight                   diffusers, for text encoders
            .lora_down.weight, .alpha, .dora_scale           kohya and LyCORIS
            .lora_magnitude_vector                           PEFT's DoRA

`other_kind` recognises other kinds of files by the names of their tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from flax import nnx

from fdiv_jax.checkpoints.original_names import Family, unet_original_name
from fdiv_jax.checkpoints.state_dicts import kernel_shapes

__all__ = ["KOHYA_PREFIXES", "Layers", "Part", "other_kind", "stated_family"]

Part = Literal["down", "up", "alpha", "dora_scale", "magnitude"]

KOHYA_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
"""The components that a LoRA can change, and how kohya's names of their layers begin."""

_ADAPTER = r"(?:\.(?!weight$)\w+)?"
_PARTS: tuple[tuple[str, Part], ...] = (
    (rf"\.lora_A{_ADAPTER}\.weight", "down"),
    (rf"\.lora_B{_ADAPTER}\.weight", "up"),
    (r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)down\.weight", "down"),
    (r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)up\.weight", "up"),
    (r"(?:[._]lora|\.lora_linear_layer)?\.alpha", "alpha"),
    (r"\.dora_scale", "dora_scale"),
    (rf"\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?", "magnitude"),
)
_PATTERN = re.compile("(.+?)(?:" + "|".join(f"({pattern})" for pattern, _ in _PARTS) + ")")
_TEXT_ATTENTION = {f"self_attn.to_{one}": f"self_attn.{one}_proj" for one in ("q", "k", "v", "out")}

# The kind of file that a tensor's name implies, in the order in which they are looked for.
_OTHER_KINDS = (
    (r"hada_[wt]\d", "a LoHa (hada)"),
    (r"lokr_[wt]\d", "a LoKr (lokr)"),
    (r"lora_mid", "a LoRA with a Tucker core (lora_mid)"),
    (r"[._](boft|oft)_|oft_blocks|oft_diag", "an OFT (oft_blocks)"),
    (r"on_input$|ia3_l", "an (IA)^3 (on_input)"),
    (r"\.[ab][12]\.weight$", "a GLoRA (a1, b1)"),
    (r"vera_lambda", "a VeRA"),
    (r"\.lora_E$|\.ranknum$", "an AdaLoRA (lora_E)"),
    (r"\.diff(_b)?$", "whole differences of weights (diff)"),
    (r"\.set_weight$", "whole weights (set_weight)"),
    (r"\.[wb]_norm$", "changes of norms (w_norm)"),
    (r"lora_embedding_[AB]", "a LoRA of an embedding table (lora_embedding_A)"),
    (r"\.(lora_B|lora_up)\b.*\.bias$", "a LoRA with biases (lora_B.bias)"),
    (r"^bundle_emb\.", "a LoRA with textual-inversion embeddings (bundle_emb)"),
    (r"^(emb_params|string_to_param\..*|<.*>|clip_[gl])$", "a textual-inversion embedding"),
    (r"custom_diffusion", "Custom Diffusion's attention weights"),
    (r"lora_controlnet|^(lora_)?controlnet", "a ControlNet"),
    (r"ip_adapter|image_proj", "an IP-Adapter"),
    (
        r"^(lora_)?(transformer|te3|prior|unet_(double|single|joint)_blocks)[._]|^text_encoder_3\."
        r"|^(base_model\.model\.)?(diffusion_model|double_blocks|single_blocks|(single_)?transformer_blocks)\.",
        "a LoRA of a diffusion transformer",
    ),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.", "a whole checkpoint"),
)
_FAMILY_WORDS: tuple[tuple[str, Family], ...] = (
    ("sdxl", "sdxl"),
    ("stable-diffusion-xl", "sdxl"),
    ("sd_v1", "sd1"),
    ("stable-diffusion-v1", "sd1"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-v2", "sd2"),
)


def other_kind(names: Iterable[str]) -> str | None:
    """The kind of a file with these names of tensors; None for a LoRA that can be read."""
    names = list(names)
    for pattern, kind in _OTHER_KINDS:
        if found := next((name for name in names if re.search(pattern, name)), None):
            return f"{kind}, as {found} shows"
    if names and not any("lora" in name for name in names):
        found = next((name for name in names if name.endswith(".weight")), None)
        return None if found is None else f"the weights of a whole model, as {found} shows"
    return None


def stated_family(header: Mapping[str, str], names: Iterable[str]) -> Family | None:
    """The family of models that a file says it is for, by its header or a second text encoder."""
    for key in ("ss_base_model_version", "modelspec.architecture"):
        for word, found in _FAMILY_WORDS:
            if word in header.get(key, "").lower():
                return found
    second = ("lora_te2_", "text_encoder_2.")
    return "sdxl" if any(name.startswith(second) for name in names) else None


class Layers:
    """The layers of some modules, by every name that files give them."""

    def __init__(self, modules: Mapping[str, nnx.Module]):
        """`modules` by component; those that a LoRA cannot change are skipped."""
        self._kohya: dict[str, tuple[str, str]] = {}
        self.shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for component, prefixes in KOHYA_PREFIXES.items():
            if component not in modules:
                continue
            shapes = self.shapes[component] = kernel_shapes(modules[component])
            renames: list[Callable[[str], str]] = [str]
            if component == "unet":
                renames.append(unet_original_name(modules["unet"].config))  # type: ignore[attr-defined]
            else:  # as written with the towers of transformers 5
                renames.append(lambda target: target.removeprefix("text_model."))
            for target in shapes:
                for prefix in prefixes:
                    for rename in renames:
                        self._kohya[prefix + rename(target).replace(".", "_")] = (component, target)

    def find(self, name: str) -> tuple[str, str, Part] | None:
        """(component, layer, part) of a tensor; None if it belongs to no layer or to no known part.

        Raises:
            ValueError: a layer that two text encoders have, without the name of its component.
        """
        match = _PATTERN.fullmatch(name)
        if match is None:
            return None
        part = _PARTS[match.lastindex - 2][1]  # type: ignore[operator]
        if match[1].startswith("lora_"):
            layer = self._kohya.get(match[1])
        else:
            layer = self._dotted(match[1])
        return None if layer is None else (*layer, part)

    def _dotted(self, layer: str) -> tuple[str, str] | None:
        component, _, rest = layer.partition(".")
        candidates = [component] if component in KOHYA_PREFIXES else list(self.shapes)
        rest = (rest if component in KOHYA_PREFIXES else layer).removeprefix("base_model.model.")
        found = [
            (each, target)
            for each in candidates
            for target in _spellings(each, rest.replace(".processor.", "."))
            if target in self.shapes.get(each, {})
        ]
        if len(found) > 1:
            raise ValueError(
                f"{layer} is a layer of {' and of '.join(each for each, _ in found)}; expected the component "
                "in front of its name"
            )
        return found[0] if found else None


def _spellings(component: str, layer: str) -> list[str]:
    """Names that our module may use for a layer of a file."""
    if component == "unet":
        return [f"{layer}.0" if layer.endswith(".to_out") else layer]
    for old, new in _TEXT_ATTENTION.items():
        layer = f"{layer.removesuffix(old)}{new}" if layer.endswith(old) else layer
    bare = layer.removeprefix("text_model.")
    return [bare, f"text_model.{bare}"]
