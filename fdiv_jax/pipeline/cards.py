"""Model cards: the README.md beside a model's weights, with the header that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fdiv_jax.pipeline.loading_code import loading_code
from fdiv_jax.pipeline.shared import Base, Shared
from fdiv_jax.terminal import printable

__all__ = ["block", "code", "model_card", "table"]


def model_card(
    base: Base,
    shared: Shared,
    *,
    title: str = "",
    introduction: str = "",
    sections: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
) -> str:
    """The text of a card.

    Args:
        base: the model before tuning.
        shared: what lies beside the card.
        title: the heading, in Markdown; empty: the model's name.
        introduction: the text below it, in Markdown.
        sections: the text of each section by its heading, in Markdown; how to load the model and its licence
            follow them.
        tags: more tags for the header.
    """
    name = shared.place.rpartition("/")[2] or base.name
    parts = [f"# {title or code(name)}", introduction or f"Saved by fdiv-jax from {code(base.name)}."]
    if shared.added:
        files = ", ".join(f"{code(file)} at {strength:g}" for file, strength in shared.added)
        parts.append(f"LoRA files that were added after the tuning: {files}.")
    for heading, text in (sections or {}).items():
        parts += [f"## {heading}", text]
    parts += ["## Load it", loading_code(base, shared), "## Licence", _about_licence(base)]
    header = yaml.safe_dump(_header(base, shared, tags), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n" + "\n\n".join(parts) + "\n"


def _header(base: Base, shared: Shared, tags: Sequence[str]) -> dict[str, Any]:
    header: dict[str, Any] = dict(base.licence)
    if base.kind == "hub":
        header["base_model"] = base.name
        header["base_model_relation"] = "adapter" if shared.low_rank else "finetune"
    family = "stable-diffusion-xl" if shared.xl else "stable-diffusion"
    own = ["text-to-image", "diffusers", family, *(["lora"] if shared.low_rank else []), "fdiv-jax"]
    header |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    return header | {"tags": [*dict.fromkeys([*own, *tags])]}


def _about_licence(base: Base) -> str:
    if not base.licence:
        return (
            f"The licence of the base model, {code(base.name)}, is unknown: no card of it that names one was "
            "found. It covers what is here too, so find it out before you use or share this."
        )
    name = _plain(base.licence.get("license_name") or base.licence["license"])
    link = base.licence.get("license_link", "")
    told = f"[{name}]({link})" if re.fullmatch(r"https?://[^\s()<>]+", link) else name
    return f"That of the base model, {code(base.name)}: {told}."


def code(text: object) -> str:
    """Text as code in Markdown, on one line, whatever is in it; it may stand in a table.

    >>> print(code("a ` b | c"))
    ``a ` b \\| c``
    """
    line = printable(" ".join(str(text).split())).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(text: str, language: str = "") -> str:
    """Lines of code as a block in Markdown, whatever is in them."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, of cells that are Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#|!])", r"\\\1", text)
