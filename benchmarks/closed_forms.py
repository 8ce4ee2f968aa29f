"""The closed-form edits of many concepts: processor time, what is left of targets, what moves elsewhere.

    python -m benchmarks.closed_forms      # 100 concepts on the shapes of SD 1.4, 50 at once and in turn

Weights and text features are random: features are Gaussian with variances that fall like 1 / i and the mean
square of CLIP's, four rows (tokens) for each target, so that nothing here says what an image would show.
Three figures for each form, in the Frobenius norm over all matrices, old W and new W':

    left       |T W' - A W| / |T W - A W|    of the targets' rows T and their anchors' A
    retained   |R (W' - W)| / |R W|          of the retained rows R
    unseen     the same of rows drawn like the retained ones, which no edit has seen

In turn, every concept is edited from what the one before left; `left` is then that of all of them at the end.
Writes benchmarks/results/closed_forms.json and .md.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from jaxtyping import Float

from benchmarks.tables import write_table
from fdiv_jax.files import JsonObject
from fdiv_jax.unlearning import EditConfig
from fdiv_jax.unlearning.closed_forms import invariant_rows, solve_edit

Rows = Float[np.ndarray, "rows features"]
Matrices = dict[str, np.ndarray]

FORMS: dict[str, EditConfig] = {
    "uce": EditConfig(),
    "rece": EditConfig("rece", preserve=0.1, ridge=0.1, regularisation=1e-3),
    "speed": EditConfig("speed", ridge=1.0),
    "speed, neither filtered nor augmented": EditConfig("speed", ridge=1.0, filtered=False, augment=0),
}
"""As the presets have them."""
SD14 = {320: 5, 640: 5, 1280: 6}
"""Outputs of to_k and to_v, and how many cross-attentions have them."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark."""

    concepts: int = 100
    """Concepts of the first part, on the shapes of SD 1.4."""
    many: int = 50
    """Concepts of the second part, at once and in turn."""
    retained: int = 1000
    """Retained rows of the first part."""
    seed: int = 0
    output: Path = Path("benchmarks/results/closed_forms.json")


class Problem(NamedTuple):
    """Matrices, and rows of features: of each concept and of its anchor, retained ones and unseen ones."""

    matrices: Matrices
    targets: list[Rows]
    anchors: list[Rows]
    retained: Rows
    unseen: Rows
    fixed: Rows


def draw_problem(
    rng: np.random.Generator, width: int, outputs: dict[int, int], concepts: int, retained: int, rows: int
) -> Problem:
    """Random matrices and features of this width; see the module."""
    scales = 1.0 / np.sqrt(np.arange(1, width + 1))
    scales *= np.sqrt(width / np.sum(scales**2))
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]

    def draw(count: int) -> Rows:
        return (rng.standard_normal((count, width)) * scales) @ turn

    matrices = {
        f"{size}.{number}.{kind}": rng.standard_normal((width, size)) / np.sqrt(width)
        for size, count in outputs.items()
        for number in range(count)
        for kind in ("to_k", "to_v")
    }
    anchor = draw(rows)
    return Problem(
        matrices,
        [draw(rows) for _ in range(concepts)],
        [anchor] * concepts,
        draw(retained),
        draw(retained),
        invariant_rows(draw(77)),
    )


def edited(problem: Problem, config: EditConfig, concepts: Sequence[int], matrices: Matrices) -> Matrices:
    """The matrices after these concepts are edited, all at once."""
    target, anchor = (
        np.concatenate([rows[i] for i in concepts]) for rows in (problem.targets, problem.anchors)
    )
    return solve_edit(matrices, target, anchor, problem.retained, config, fixed=problem.fixed)


def figures(problem: Problem, after: Matrices) -> JsonObject:
    """`left`, `retained` and `unseen`; see the module."""
    target, anchor = (np.concatenate(rows) for rows in (problem.targets, problem.anchors))

    def size(rows: Sequence[Rows]) -> float:
        return float(np.sqrt(sum(np.sum(part**2) for part in rows)))

    def drift(rows: Rows) -> float:
        moved = size([rows @ (after[name] - w) for name, w in problem.matrices.items()])
        return moved / size([rows @ w for w in problem.matrices.values()])

    before = size([(target - anchor) @ w for w in problem.matrices.values()])
    left = size([target @ after[name] - anchor @ w for name, w in problem.matrices.items()])
    return {"left": left / before, "retained": drift(problem.retained), "unseen": drift(problem.unseen)}


def measure(problem: Problem, config: EditConfig, *, in_turn: bool) -> JsonObject:
    """The figures and the processor time of one form."""
    concepts = range(len(problem.targets))
    start = time.process_time()
    after = problem.matrices
    for chosen in [[i] for i in concepts] if in_turn else [list(concepts)]:
        after = edited(problem, config, chosen, after)
    seconds = time.process_time() - start
    return {"seconds": seconds, **figures(problem, after)}


def markdown(results: JsonObject) -> str:
    """The tables as text."""
    lines = []
    for title, rows in results["parts"].items():
        lines += [
            f"## {title}",
            "",
            "| form | processor seconds | left | retained | unseen |",
            "|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            cells = [f"{row['seconds']:.2f}", *(f"{row[key]:.2g}" for key in ("left", "retained", "unseen"))]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(config: BenchmarkConfig) -> None:
    """Run, print, and write what was found."""
    rng = np.random.default_rng(config.seed)
    large = draw_problem(rng, 768, SD14, config.concepts, config.retained, rows=4)
    small = draw_problem(rng, 192, {64: 2, 96: 2}, config.many, 150, rows=1)
    parts: JsonObject = {
        f"{config.concepts} concepts at once, 32 matrices of 768 x 320 to 1280": {
            name: measure(large, form, in_turn=False) for name, form in FORMS.items()
        }
    }
    for in_turn, words in ((False, "at once"), (True, "in turn")):
        parts[f"{config.many} concepts {words}, 8 matrices of 192 x 64 to 96"] = {
            name: measure(small, form, in_turn=in_turn) for name, form in FORMS.items()
        }
    versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "output"}
    results: JsonObject = {"settings": settings, "versions": versions, "parts": parts}
    write_table(config.output, results, markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
