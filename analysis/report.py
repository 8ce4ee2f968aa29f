"""paper_figures/README.md, written from the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fdiv_jax.files import JsonMapping

from .claims import CLAIMS
from .part import Part

__all__ = ["readme"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_number(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_number(item) for item in value)
    return str(value)


def _claims(found: Mapping[str, JsonMapping]) -> list[str]:
    heads = ("claim", "says", "here", "effect", "interval", "seeds", "evidence")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for claim, says in CLAIMS.items():
        one = found.get(claim, {"evidence": ""})
        if "verdict" not in one:
            text = f"The part that decides it has not run. {_cell(one['evidence'])}".strip()
            lines.append(f"| {claim} | {_cell(says)} | | | | | {text} |")
            continue
        effect = "" if one["effect"] is None else _number(one["effect"])
        span = "" if one["interval"] is None else " to ".join(map(_number, one["interval"]))
        lines.append(
            f"| {claim} | {_cell(says)} | **{one['verdict']}** | {effect} | {span} | {one['seeds']} "
            f"| {_cell(one['evidence'])} |"
        )
    return lines


def readme(summary: JsonMapping, parts: Sequence[Part]) -> str:
    """The page: claims first, then each figure with the one thing it shows, then the numbers."""
    states = summary["parts"]
    lines = [
        "# Figures",
        "",
        "Written by `python -m analysis.convergence` together with `summary.json`; not edited by hand. Every",
        "picture (png, pdf) has its numbers beside it (csv or json).",
        "",
    ]
    quick = [name for name, state in states.items() if state["quick"]]
    if quick:
        lines += [
            f"**Quick run**, on smaller grids and with fewer divergences: {', '.join(quick)}. It shows that",
            "everything works and what the figures look like; the claims are judged by full runs alone.",
            "",
        ]
    failed = {name: state["error"] for name, state in states.items() if state["status"] == "failed"}
    for name, error in failed.items():
        lines += [f"**Part `{name}` failed**: {_cell(error)}", ""]
    if len(quick) < len(states):
        lines += ["## Claims of the paper", "", *_claims(summary["claims"]), ""]
    lines += ["## What each figure shows", ""]
    for part in parts:
        state = states.get(part.name)
        if state is None:
            lines += [f"### {part.name}: {part.title}", "", "Not run yet.", ""]
            continue
        lines += [f"### {part.name}: {part.title}", ""]
        for figure in state["figures"]:
            lines += [figure["shows"], "", f"![{figure['name']}]({figure['name']}.png)", ""]
        numbers = [(name, summary[name]) for name in state["entries"] if name in summary]
        if numbers:
            lines += ["| number | value |", "|---|---|"]
            lines += [f"| {name} | {_cell(_number(value))} |" for name, value in numbers]
            lines += [""]
    lines += ["## How it was made", ""]
    lines += [", ".join(f"{name} {version}" for name, version in summary["versions"].items()) + ".", ""]
    seconds = summary["wall_time_seconds"]
    if seconds:
        lines += [
            "| part | seconds |",
            "|---|---|",
            *[f"| {name} | {value:.1f} |" for name, value in seconds.items()],
        ]
        lines += [f"| together | {sum(seconds.values()):.1f} |", ""]
    return "\n".join(lines)
