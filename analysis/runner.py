"""Runs the parts of the analysis in order: progress, resume, summary.

To add a part, write `analysis/parts/NAME.py` with

    def run(context: Context) -> dict:            # entries for summary.json, under plain names
        rows = context.cells(items, "games played", lambda item: ...)
        context.figure("NAME", figure, shows="the one thing it shows", rows=[{"x": 1.0, "y": 2.0}, ...])
        context.claim("C7", "holds", "in words", effect=1.2, interval=(1.1, 1.3), seeds=5)
        return {"phase_agreement": 1.0}

and add one line to `analysis.parts.PARTS`. A part is computed again when its settings, the versions of the
libraries, the files its module can reach through imports, or the `inputs` named with it change; or when one
of its pictures or numbers is missing or was edited. A part that is interrupted goes on from the cells that it
has finished; it may keep other unfinished work in `context.work`.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from fdiv_jax.files import JsonMapping, JsonObject
from fdiv_jax.interrupts import check_interrupted
from fdiv_jax.terminal import Console, TextColumn
from fdiv_jax.unlearning.result import versions

from . import files
from .cells import Cells
from .claims import CLAIMS, VERDICTS, Verdict
from .files import Row
from .part import Part
from .report import readme
from .sources import source_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Context", "Part", "Settings", "run_parts"]

T = TypeVar("T")
_LIBRARIES = ("fdiv-jax", "jax", "jaxlib", "flax", "numpy", "sympy", "matplotlib")


@dataclass(frozen=True)
class Settings:
    """What was asked for: where results and unfinished work go, fast or full, whether to start afresh."""

    output: Path
    work: Path
    quick: bool = False
    force: bool = False


@dataclass
class Context:
    """What a part is given, and where it leaves its results."""

    part: str
    quick: bool
    output: Path
    work: Path
    advance: Callable[[str, int, int | None], None] = lambda text, done, total: None
    figures: list[Row] = field(default_factory=list)
    claims: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    @cached_property
    def _cells(self) -> Cells:
        return Cells(self.work / "cells")

    @property
    def shared(self) -> Path:
        """A directory that all parts of a run of the same kind (quick or full) share; theirs to keep tidy."""
        return self.work.parents[1] / "shared"

    def progress(self, items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
        """Go through `items` with a progress bar that reads `text`."""
        count = len(items) if total is None and isinstance(items, Sized) else total
        self.advance(text, 0, count)
        for done, item in enumerate(items, start=1):
            yield item
            check_interrupted()
            self.advance(text, done, count)

    def cells(self, items: Iterable[T], text: str, compute: Callable[[T], Any]) -> list[Any]:
        """`compute(item)` for every item, with a progress bar; each is kept as soon as it is finished.

        A part that was interrupted takes the kept ones when it runs again. `text` names the cells and is
        said once in a part; see `Cells.get` for what a result may be.

        Raises:
          ValueError: a text that is said twice.
        """
        if text in self._said:
            raise ValueError(f"part {self.part!r} has two kinds of cells with the name {text!r}")
        self._said.add(text)
        listed = list(enumerate(items))
        return [
            self._cells.get(f"{text} {number}", lambda item=item: compute(item))
            for number, item in self.progress(listed, text)
        ]

    @property
    def kept_seconds(self) -> float:
        """The time that an earlier, interrupted run spent on cells that this one took over."""
        return self._cells.kept_seconds

    def figure(
        self,
        name: str,
        figure: Figure,
        *,
        shows: str,
        rows: Iterable[Row] | files.Columns | None = None,
        numbers: JsonMapping | None = None,
    ) -> None:
        """Write name.png and name.pdf, and beside them name.csv from `rows` and/or name.json from `numbers`.

        What makes the figure unfit for print is added to `faults` and told at the end of the part: it does
        not cost the part its numbers.

        Raises:
          ValueError: neither rows nor numbers, a nan, or a name used twice.
        """
        if rows is None and numbers is None:
            raise ValueError(f"figure {name!r}: expected its numbers beside it, got neither rows nor numbers")
        if any(other["name"] == name for other in self.figures):
            raise ValueError(f"figure {name!r} is written twice by part {self.part!r}")
        contents: dict[str, str | bytes] = {}
        if rows is not None:
            contents[f"{name}.csv"] = files.csv_text(rows)
        if numbers is not None:
            contents[f"{name}.json"] = files.json_text(numbers)
        from .style import figure_faults  # not at import: matplotlib is slow to load

        self.faults += [f"figure {name!r} {fault}" for fault in figure_faults(figure)]
        # Without dates and program names, so that the same numbers give the same file.
        for kind, metadata in (
            ("png", {"Software": None}),
            ("pdf", {"CreationDate": None, "Producer": None}),
        ):
            with closing(io.BytesIO()) as buffer:
                figure.savefig(buffer, format=kind, metadata=metadata)
                contents[f"{name}.{kind}"] = buffer.getvalue()
        figure.clear()
        for file, content in contents.items():
            files.write_whole(self.output / file, content)
        written = {file: files.digest(self.output / file) for file in contents}
        self.figures.append({"name": name, "shows": shows, "files": written})

    def claim(
        self,
        claim: str,
        verdict: Verdict,
        evidence: str,
        *,
        effect: float | None,
        interval: Sequence[float] | None,
        seeds: int,
    ) -> None:
        """State what a claim of the paper comes to here; one part alone does so for each claim.

        Args:
          claim: its name in `CLAIMS`.
          verdict: holds, fails, or not distinguishable here.
          evidence: the numbers for it, in words.
          effect, interval: the quantity that decides, and from where to where it may be; None: not measured.
          seeds: how many runs it is the mean of; 0 for an identity.

        Raises:
          ValueError: another claim or verdict.
        """
        if claim not in CLAIMS:
            raise ValueError(f"expected one of the claims {', '.join(CLAIMS)}; got {claim!r}")
        if verdict not in VERDICTS:
            raise ValueError(f"expected a verdict among {', '.join(VERDICTS)}; got {verdict!r}")
        span = None if interval is None else [float(end) for end in interval]
        decision = {"effect": None if effect is None else float(effect), "interval": span, "seeds": seeds}
        self.claims.append({"claim": claim, "verdict": verdict, **decision, "evidence": evidence})

    def evidence(self, claim: str, text: str) -> None:
        """Say what bears on a claim that another part decides.

        Raises:
          ValueError: another claim.
        """
        if claim not in CLAIMS:
            raise ValueError(f"expected one of the claims {', '.join(CLAIMS)}; got {claim!r}")
        self.claims.append({"claim": claim, "evidence": text})


def _key(part: Part, quick: bool) -> str:
    """What must be unchanged for the results of a part to stand."""
    state = [part.name, quick, source_digest(part.module, part.inputs), versions(_LIBRARIES)]
    return json.dumps(state, sort_keys=True)


def _record_path(part: Part, settings: Settings) -> Path:
    return settings.work / ("quick" if settings.quick else "full") / f"{part.name}.json"


def _standing(part: Part, key: str, settings: Settings) -> JsonObject | None:
    """The record of an earlier run of this part, if it is still good."""
    record = files.read_json(_record_path(part, settings))
    if settings.force or record.get("key") != key:
        return None
    for figure in record["figures"]:
        for file, content in figure["files"].items():
            path = settings.output / file
            if not path.is_file() or files.digest(path) != content:
                return None
    return record


def _compute(part: Part, key: str, settings: Settings, advance: Callable[..., None]) -> JsonObject:
    """Run the part and keep its record."""
    shelf = _record_path(part, settings).with_suffix("")
    work = shelf / hashlib.sha256(key.encode()).hexdigest()[:16]
    for stale in shelf.glob("*"):  # unfinished work of other settings or other code
        if stale != work or settings.force:
            shutil.rmtree(stale)
    work.mkdir(parents=True, exist_ok=True)
    context = Context(part.name, settings.quick, settings.output, work, advance)
    started = time.perf_counter()
    entries = importlib.import_module(part.module).run(context)
    if not isinstance(entries, dict):
        raise TypeError(
            f"{part.module}.run: expected a dict of summary entries, got {type(entries).__name__}"
        )
    if settings.quick:  # grids that are too small to judge by
        entries = {name: value for name, value in entries.items() if not isinstance(value, (bool, np.bool_))}
        context.claims.clear()
    record = {
        "key": key,
        "seconds": round(time.perf_counter() - started + context.kept_seconds, 2),
        "entries": entries,
        "figures": context.figures,
        "claims": context.claims,
        "faults": context.faults,
    }
    text = files.json_text(record)
    files.write_whole(_record_path(part, settings), text)
    return json.loads(text)


def _summarise(settings: Settings, parts: Sequence[Part], outcomes: Mapping[str, JsonObject]) -> None:
    """Write summary.json and README.md: what was run now, and for the rest the summary already there."""
    path = settings.output / "summary.json"
    before = files.read_json(path)
    states: dict[str, JsonObject] = {}
    entries: JsonObject = {}
    seconds: dict[str, float] = {}
    for part in parts:
        outcome = outcomes.get(part.name)
        if outcome is None:
            old = before.get("parts", {}).get(part.name)
            if old is None:
                continue
            states[part.name] = old
            found = {name: before[name] for name in old["entries"] if name in before}
            if part.name in before.get("wall_time_seconds", {}):
                seconds[part.name] = before["wall_time_seconds"][part.name]
        else:
            found = outcome.get("entries", {})
            states[part.name] = {
                "status": outcome["status"],
                "quick": settings.quick,
                "entries": list(found),
                "figures": [{"name": f["name"], "shows": f["shows"]} for f in outcome.get("figures", [])],
                "claims": outcome.get("claims", []),
            } | ({"error": outcome["error"]} if "error" in outcome else {})
            if "seconds" in outcome:
                seconds[part.name] = outcome["seconds"]
        entries |= found
    summary = {
        "quick": any(state["quick"] for state in states.values()),
        "versions": versions(_LIBRARIES),
        "wall_time_seconds": seconds,
        "claims": _claims(states),
        **entries,
        "parts": states,
    }
    files.write_whole(path, files.json_text(summary))
    files.write_whole(settings.output / "README.md", readme(summary, parts))


_RESERVED = {"quick", "versions", "wall_time_seconds", "claims", "parts"}


def _claims(states: Mapping[str, JsonMapping]) -> dict[str, JsonObject]:
    """Claim -> verdict, effect, interval and seeds from the part that decides it, where it has run, and the
    evidence of all."""
    found: dict[str, JsonObject] = {}
    for claim in CLAIMS:
        said = [(name, one) for name, state in states.items() for one in state["claims"]]
        own = [(name, one) for name, one in said if one["claim"] == claim]
        # What has no effect is evidence alone.
        decided = [{key: one[key] for key in _DECISION} for _, one in own if "effect" in one]
        own.sort(key=lambda pair: "effect" not in pair[1])
        if own:
            evidence = " ".join(f"{one['evidence']} ({name})" for name, one in own)
            found[claim] = {**(decided[-1] if decided else {}), "evidence": evidence}
    return found


_DECISION = ("verdict", "effect", "interval", "seeds")


def _check_names(name: str, entries: JsonMapping, claims: Sequence[Row], taken: Mapping[str, str]) -> None:
    for one in claims:
        owner = taken.get(one["claim"], name) if "effect" in one else name
        if owner != name:
            raise ValueError(f"part {name!r} and {owner} both decide the claim {one['claim']}")
    for entry in entries:
        owner = "the summary itself" if entry in _RESERVED else taken.get(entry, name)
        if owner != name:
            raise ValueError(f"part {name!r} and {owner} both write the summary entry {entry!r}")


def run_parts(
    parts: Sequence[Part],
    settings: Settings,
    only: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """Run `parts`, or those named in `only`, in their order; returns how many failed.

    The summary is written after every part, so that an interrupted run keeps what it has.
    """
    console = console or Console(stderr=True)
    chosen = [part for part in parts if not only or part.name in only]
    if settings.force:
        shutil.rmtree(settings.work / ("quick" if settings.quick else "full") / "shared", ignore_errors=True)
    outcomes: dict[str, JsonObject] = {}
    taken: dict[str, str] = {}
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        overall = progress.add_task("parts", total=len(chosen))
        for number, part in enumerate(chosen, start=1):
            inner = progress.add_task(part.name, total=None)

            def advance(text: str, done: int, total: int | None, task=inner, name=part.name) -> None:
                progress.update(task, description=f"{name}: {text}", completed=done, total=total)

            place = f"[{number}/{len(chosen)}] {part.name}"
            try:
                key = _key(part, settings.quick)
                record = _standing(part, key, settings)
                kept = record is not None
                if record is None:
                    record = _compute(part, key, settings, advance)
                _check_names(part.name, record["entries"], record["claims"], taken)
                taken |= dict.fromkeys(record["entries"], part.name)
                taken |= {one["claim"]: part.name for one in record["claims"] if "effect" in one}
                outcomes[part.name] = record | {"status": "done"}
                console.print(
                    f"{place}: {'unchanged, kept' if kept else str(record['seconds']) + ' s'}",
                    highlight=False,
                )
                for fault in record.get("faults", []):  # a record of an older version has none
                    console.print(f"{place}: {fault}", highlight=False)
            except Exception as error:  # one part's failure must not cost the others
                outcomes[part.name] = {"status": "failed", "error": f"{type(error).__name__}: {error}"}
                console.print(f"{place}: FAILED\n{traceback.format_exc()}", highlight=False)
            _summarise(settings, parts, outcomes)
            progress.remove_task(inner)
            progress.advance(overall)
    return sum(outcome["status"] == "failed" for outcome in outcomes.values())
