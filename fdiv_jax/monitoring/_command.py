"""How to repeat a run: the settings that differ from the defaults, and a command with them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from fdiv_jax.files import JsonMapping, JsonObject
from fdiv_jax.unlearning import UnlearningConfig

__all__ = ["changes", "repeating"]


def changes(config: UnlearningConfig) -> JsonObject:
    """Settings that differ from the defaults, by dotted names, as JSON holds them."""
    default = _flat(UnlearningConfig("-").to_dict()) | {"target": ""}
    return {name: value for name, value in _flat(config.to_dict()).items() if value != default[name]}


def repeating(model: str, config: UnlearningConfig) -> str:
    """The command that makes the run again; for several concepts, which no option can say, Python."""
    if config.concepts:
        return (
            "import json, fdiv_jax\n"
            'config = fdiv_jax.UnlearningConfig.from_dict(json.load(open("config.json"))["config"])\n'
            f"result = fdiv_jax.unlearn(fdiv_jax.load_pipeline({model or 'MODEL'!r}), config)"
        )
    words = ["fdiv-jax", "unlearn", shlex.quote(model or "MODEL")]
    for name, value in changes(config).items():
        words.append(_option(name.replace("_", "-"), value))
    return " ".join(words)


def _option(name: str, value: object) -> str:
    if isinstance(value, bool):
        part, dot, last = name.rpartition(".")
        return f"--{part}{dot}{'' if value else 'no-'}{last}"
    if isinstance(value, list):
        return " ".join([f"--{name}", *(shlex.quote(str(entry)) for entry in value)])
    text = shlex.quote(str(value))
    return f"--{name}={text}" if str(value).startswith("-") else f"--{name} {text}"


def _flat(mapping: JsonMapping, prefix: str = "") -> JsonObject:
    flat: JsonObject = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
