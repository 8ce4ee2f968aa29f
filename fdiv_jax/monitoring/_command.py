"""How to repeat a run: the settings that differ from the defaults, and a command with them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from fdiv_jax.files import JsonMapping, JsonObject
from fdiv_jax.unlearning import UnlearningConfig

__all__ = ["changes", "repeating"]

_BESIDE = ("config", "vae", "prediction_type", "variant", "revision", "dtype", "param_dtype")
"""What a model was loaded with."""


def changes(config: UnlearningConfig) -> JsonObject:
    """Settings that differ from the defaults, by dotted names, as JSON holds them."""
    default = _flat(UnlearningConfig("-").to_dict()) | {"target": ""}
    return {name: value for name, value in _flat(config.to_dict()).items() if value != default[name]}


def repeating(model: JsonMapping, config: UnlearningConfig) -> str:
    """The command that makes the run again; for several concepts, which no option can say, Python.

    `model` is the run's own account of it: its name, and what it was loaded with.
    """
    name = str(model.get("name") or "MODEL")
    beside = {key: str(model[key]) for key in _BESIDE if model.get(key)}
    loras = [(str(file), strength) for file, strength in model.get("loras") or ()]
    if config.concepts:
        options = "".join(f", {key}={value!r}" for key, value in beside.items())
        added = "".join(f".with_lora({file!r}, {strength})" for file, strength in loras)
        return (
            "import json, fdiv_jax\n"
            'config = fdiv_jax.UnlearningConfig.from_dict(json.load(open("config.json"))["config"])\n'
            f"result = fdiv_jax.unlearn(fdiv_jax.load_pipeline({name!r}{options}){added}, config)"
        )
    words = ["fdiv-jax", "unlearn", shlex.quote(name)]
    words += [_option(key.replace("_", "-"), value) for key, value in beside.items()]
    words += [_option("lora", f"{file}:{strength}") for file, strength in loras]
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
