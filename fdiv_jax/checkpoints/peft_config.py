"""PEFT's settings of a LoRA, from the file's header or from adapter_config.json next to it."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdiv_jax.checkpoints.lora_names import KOHYA_PREFIXES
from fdiv_jax.files import JsonObject, parse_json, read_json
from fdiv_jax.nn.lora import Lora

__all__ = ["METADATA", "PeftConfig", "peft_metadata"]

METADATA = "lora_adapter_metadata"
"""diffusers' key in the header of a safetensors file; its value is JSON."""
_BESIDE = "adapter_config.json"  # PEFT's own, of a file with one component
_QUANTIFIERS = 3  # matching takes a time of the order of the name's length to the power of their number
_COMPONENTS = tuple(f"{component}." for component in KOHYA_PREFIXES)


class PeftConfig:
    """The alphas of a LoRA file, by the rules of peft.LoraConfig."""

    def __init__(self, path: Path, header: Mapping[str, str]):
        """Read the settings of the file `path`, which has this `header`.

        Raises:
            ValueError: settings that are not a JSON object.
        """
        self._path = path
        self._source, text = f"{path}: {METADATA}", header.get(METADATA)
        beside = path.with_name(_BESIDE)
        if text is None and path.name.startswith("adapter_model") and beside.is_file():
            self._source, values = str(beside), read_json(beside)
        else:
            values = parse_json(text or "{}", self._source)
        if not isinstance(values, dict):
            raise ValueError(f"{self._source} is {type(values).__name__}, expected an object")
        self._values: JsonObject = values

    def alpha(self, component: str, target: str, rank: int) -> float:
        """alpha of a layer: that of the first pattern its name ends in, else lora_alpha, else the rank.

        Raises:
            ValueError: an alpha that is not a finite number.
            NotImplementedError: a pattern that is a regular expression with groups or many repetitions.
        """
        alpha = self._get(component, "lora_alpha", rank)
        patterns = self._get(component, "alpha_pattern", None) or {}
        if not isinstance(patterns, dict):
            raise ValueError(f"{self._source}: alpha_pattern is {patterns!r}, expected an object")
        for pattern, value in patterns.items():
            if self._matches(pattern, target):
                alpha = value
                break
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise ValueError(f"{self._source}: alpha {alpha!r} of {component} {target}, expected a number")
        if self._get(component, "use_rslora", False):  # alpha / sqrt(rank)
            return float(alpha) * rank**0.5
        return float(alpha)

    def _get(self, component: str, key: str, default: object) -> Any:
        if any(name.startswith(_COMPONENTS) for name in self._values):
            return self._values.get(f"{component}.{key}", default)
        return self._values.get(key, default)

    def _matches(self, pattern: str, target: str) -> bool:
        if set(pattern) & set("(){}[") or sum(pattern.count(one) for one in "*+?") > _QUANTIFIERS:
            raise NotImplementedError(
                f"{self._source}: alpha_pattern {pattern!r}; supported: names, and regular expressions "
                f"without groups and with at most {_QUANTIFIERS} repetitions"
            )
        try:
            return re.match(rf"(.*\.)?({pattern})$", target) is not None
        except re.error as error:
            raise ValueError(f"{self._source}: alpha_pattern {pattern!r}: {error}") from error


def peft_metadata(loras: Mapping[str, Lora]) -> JsonObject:
    """The arguments of peft.LoraConfig, each key with its component.

    Names are without text_model, which the text encoders of transformers 5 lack; PEFT matches name endings.
    """
    config: JsonObject = {}
    for component, lora in loras.items():
        short = {target: target.removeprefix("text_model.") for target in lora.targets}
        ranks = {short[target]: lora.rank(target) for target in lora.targets}
        alphas = {short[target]: lora.alpha[target] for target in lora.targets}
        rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
        values: JsonObject = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {_exactly(name): r for name, r in ranks.items() if r != rank},
            "alpha_pattern": {_exactly(name): a for name, a in alphas.items() if a != alpha},
            "target_modules": sorted(short.values()),
        }
        if lora.magnitudes:
            values["use_dora"] = True
        config.update({f"{component}.{key}": value for key, value in values.items()})
    return config


def _exactly(name: str) -> str:
    """A pattern for exactly this layer: PEFT's patterns are regular expressions for the end of a name."""
    return name.replace(".", r"\.")
