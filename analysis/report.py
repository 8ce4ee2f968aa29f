"""paper_figures/README.md, written from the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .claims import CLAIMS
from .part import Part

__all__ = ["readme"]

# Why a claim has no number until a part states one.
_NOT_YET = {
    "C3": "needs gradient norms along real unlearning",
    "C4": "needs unlearning runs compared at equal erasure",
    "C5": "needs unlearning runs with closed-form chi2",
    "C6": "needs variational unlearning runs and KID",
    "C8": "needs unlearning runs with each anchor",
    "C9": "needs ten styles erased in sequence and KID",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_number(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_number(item) for item in value)
    return str(value)


def _claims(states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| claim | says | here | evidence |", "|---|---|---|---|"]
    for claim, says in CLAIMS.items():
        found = [
            (name, item)
            for name, state in states.items()
            for item in state["claims"]
            if item["claim"] == claim
        ]
        if not found:
            why = _NOT_YET.get(claim, "the part that measures it has not run")
            lines.append(f"| {claim} | {_cell(says)} | not measured here | {why} |")
            continue
        verdicts = list(dict.fromkeys(item["verdict"] for _, item in found))
        verdict = verdicts[0] if len(verdicts) == 1 else "holds in part"
        evidence = " ".join(f"{item['evidence']} ({name})" for name, item in found)
        lines.append(f"| {claim} | {_cell(says)} | **{verdict}** | {_cell(evidence)} |")
    return lines


def readme(summary: Mapping[str, Any], parts: Sequence[Part]) -> str:
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
        lines += ["## Claims of the paper", "", *_claims(states), ""]
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
