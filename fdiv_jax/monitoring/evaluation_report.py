"""A page about an evaluation: figures, intervals, and images from the same noise; it loads nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fdiv_jax.evaluation import METRICS, Evaluated, Evaluation, Figure, ImageStore, Interval, PromptSet
from fdiv_jax.evaluation.protocol import ROLES
from fdiv_jax.monitoring._files import explained, write_file
from fdiv_jax.monitoring._interval_plot import Bar, interval_plot
from fdiv_jax.monitoring.report import NAME
from fdiv_jax.monitoring.sheets import PROMPTS, spread
from fdiv_jax.pages import escaped, image_tag, page_of, prompt_text, section, table

__all__ = ["evaluation_page", "write_report"]

_ACROSS = 4
"""Images at a prompt that are shown, at most, for all models together times two."""
_SIDE, _LARGEST = 64, 160
_RATES = ("ua", "ira", "cra", "harmonic", "clip_accuracy")
_STYLE = """
td small, .grid small { color: var(--soft); display: block; font-size: 0.8rem; white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem; }
.plots svg { font-family: system-ui, sans-serif; max-width: 40rem; }
.grid table { min-width: max-content; }
.grid th { max-width: 14rem; }
td > .clear { font-weight: 600; color: var(--ink); }
section .wide tbody th { min-width: 6.5rem; }
section .wide thead th { min-width: 2.5rem; }
@media (max-width: 40rem) { section .wide :is(td, th) { padding-right: 0.5rem; } }
"""


def write_report(evaluation: Evaluation, directory: Path, images: Sequence[Path]) -> Path:
    """Write the page `report.html` into the output directory, and return its path.

    Args:
        evaluation: what it is about.
        directory: of the output.
        images: directories that hold drawn images; models without theirs are shown by figures alone.

    Raises:
        OSError: the disk is full or fails, or there is no permission.
        ValueError: the file is a link.
    """
    text = evaluation_page(evaluation, images)
    data = text.encode("utf-8", "backslashreplace")
    path = directory / NAME
    with explained("write", path):
        directory.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda temporary: temporary.write_bytes(data), within=directory)
    return path


def evaluation_page(evaluation: Evaluation, images: Sequence[Path | None]) -> str:
    """The page as HTML; for `images` see `write_report`."""
    protocol = evaluation.protocol
    targets = ", ".join(each.concept for each in protocol.of("target"))
    anchors = ", ".join(each.concept for each in protocol.of("anchor"))
    title = f"{targets} → {anchors}" if anchors else targets
    stores = [ImageStore(place) for place in images]
    sections = [
        _heading(title, evaluation),
        section("Figures", f'<div class="wide">{_figures(evaluation)}</div>{_reading(evaluation)}'),
        section("Intervals", f'<div class="plots">{_plots(evaluation)}</div>'),
        *(_grid(role.capitalize(), evaluation, protocol.of(role), stores) for role in ROLES),
        _concepts(evaluation),
        _protocol(evaluation),
        _made_with(evaluation),
    ]
    return page_of(f"Evaluation: {title}", sections, style=_STYLE)


def _heading(title: str, evaluation: Evaluation) -> str:
    protocol, base = evaluation.protocol, evaluation.base.model.get("name") or "a model without a name"
    count = sum(1 for _ in protocol.images())
    lines = [
        f"protocol {protocol.name} ({protocol.sha256[:12]}); base {base}",
        f"{count} images of each model, the same noise for all; {protocol.sampler}, {protocol.steps} steps, "
        f"guidance {protocol.guidance:g}",
    ]
    return f"<h1>{escaped(title)}</h1>" + "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)


def _figures(evaluation: Evaluation) -> str:
    models = evaluation.models
    rows = []
    for figure in _whole(evaluation):
        better = _better(figure)
        heading = f'{escaped(_title(figure))}<br><span class="soft">{better}{figure.images} images</span>'
        base = "—" if figure.base is None else _number(figure.metric, figure.base)
        rows.append((heading, base, *(_cell(_same(each, figure)) for each in models.values())))
    return table(("", "base", *map(escaped, models)), rows, numbers=True)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "—"
    text = _interval(figure.metric, figure.value)
    if figure.difference is None:
        return f'<span class="clear">{text}</span>' if figure.clear else text
    change = "{}<br>[{}, {}]".format(*(_number(figure.metric, x, signed=True) for x in figure.difference))
    bold = ' class="clear"' if figure.clear else ""
    return f"{text}<small{bold}>change {change}</small>"


def _reading(evaluation: Evaluation) -> str:
    asked = [
        figure for each in evaluation.models.values() for figure in each.figures if figure.clear is not None
    ]
    clear = sum(bool(figure.clear) for figure in asked)
    return (
        '<p class="soft">In brackets 95 % intervals for new prompts and new noise. "Change" is the '
        "difference from the base over the same prompts and noise. KID, FID, CMMD and changes of pixels and "
        "features are measured from the base's images.</p>"
        f'<p class="soft">{len(asked)} comparisons with the base are shown; if nothing had changed, one in '
        f"twenty would leave out 0 by chance. {clear} leave it out also when all comparisons of a model are "
        "to hold together (Bonferroni): those are in bold.</p>"
    )


def _plots(evaluation: Evaluation) -> str:
    found = []
    for figure in _whole(evaluation):
        own = _same(evaluation.base, figure)
        bars = [] if own is None else [Bar("base", own.value, True)]
        for name, model in evaluation.models.items():
            if (own := _same(model, figure)) is not None:
                bars.append(Bar(name, own.value))
        bounds = (0.0, 1.0) if figure.metric in _RATES else None
        picture = interval_plot(_title(figure), bars, bounds=bounds)
        found.append(f"<figure>{picture}<figcaption>{escaped(_title(figure))}</figcaption></figure>")
    return "".join(found)


def _grid(
    heading: str, evaluation: Evaluation, sets: Sequence[PromptSet], stores: Sequence[ImageStore]
) -> str:
    """Images from the same noise: a row for a prompt, a column for each model."""
    prompts = spread([(each, prompt) for each in sets for prompt in each.prompts], PROMPTS)
    if not prompts:
        return ""
    models = {"base": evaluation.base, **evaluation.models}
    across = max(1, min(_ACROSS, 2 * _ACROSS // len(models)))
    rows, missing = [], set()
    for each, prompt in prompts:
        seeds = evaluation.protocol.seeds(each.role)[:across]
        cells = []
        for name, model in models.items():
            pictures = _read(stores, model.folder, prompt, seeds)
            if pictures is None:
                missing.add(name)
                cells.append('<span class="soft">not kept</span>')
                continue
            tags = (
                image_tag(picture, f"{name}: {prompt}, seed {seed}", side=_SIDE, largest=_LARGEST)
                for seed, picture in zip(seeds, pictures, strict=True)
            )
            cells.append("".join(tags))
        rows.append((prompt_text(prompt), cells))
    head = "".join(f"<th>{escaped(name)}</th>" for name in ("prompt", *models))
    body = "".join(
        f"<tr><th>{prompt}</th>{''.join(f'<td class=images>{cell}</td>' for cell in cells)}</tr>"
        for prompt, cells in rows
    )
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return section(heading, f'<div class="wide grid">{grid}</div>')


def _read(stores: Sequence[ImageStore], folder: str, prompt: str, seeds: Sequence[int]) -> np.ndarray | None:
    for store in stores:
        try:
            return store.read(folder, prompt, seeds)
        except FileNotFoundError:
            continue
    return None


def _concepts(evaluation: Evaluation) -> str:
    """The figures of single concepts."""
    first = next(iter(evaluation.models.values()))
    rows = []
    for figure in first.figures:
        if figure.concept:
            base = "—" if figure.base is None else _number(figure.metric, figure.base)
            cells = (_same(each, figure) for each in evaluation.models.values())
            values = ("—" if cell is None else _interval(cell.metric, cell.value) for cell in cells)
            rows.append((escaped(figure.name), base, *values))
    if not rows:
        return ""
    found = table(("", "base", *map(escaped, evaluation.models)), rows, numbers=True)
    summary = f"<summary>{len(rows)} figures of single concepts</summary>"
    return section("By concept", f'<details>{summary}<div class="wide">{found}</div></details>')


def _protocol(evaluation: Evaluation) -> str:
    protocol = evaluation.protocol
    settings = [
        ("sampler", f"{protocol.sampler}, {protocol.steps} steps, guidance {protocol.guidance:g}"),
        ("eta", "the sampler's own" if protocol.eta is None else f"{protocol.eta:g}"),
        ("metrics", ", ".join(protocol.metrics)),
        *evaluation.backbones.items(),
        ("sha256", protocol.sha256),
    ]
    rows = [(escaped(name), escaped(value)) for name, value in settings]
    sets = []
    for each in protocol.sets:
        entries = "".join(f"<li>{prompt_text(prompt)}</li>" for prompt in each.prompts)
        seeds = ", ".join(map(str, protocol.seeds(each.role)))
        summary = f"{each.role}: {escaped(each.concept)}, {len(each.prompts)} prompts, seeds {seeds}"
        sets.append(f"<details><summary>{summary}</summary><ul>{entries}</ul></details>")
    return section("Protocol", table((), rows) + "".join(sets))


def _made_with(evaluation: Evaluation) -> str:
    models = {"base": evaluation.base, **evaluation.models}
    rows = [
        (escaped(name), f"{escaped(each.model.get('name') or '—')}<br><code>{escaped(each.sha256)}</code>")
        for name, each in models.items()
    ]
    rows += [(escaped(name), escaped(version)) for name, version in evaluation.versions.items()]
    return section("Made with", table((), rows))


def _whole(evaluation: Evaluation) -> list[Figure]:
    """The figures over whole roles, as the first model has them."""
    return [figure for figure in next(iter(evaluation.models.values())).figures if not figure.concept]


def _same(model: Evaluated, figure: Figure) -> Figure | None:
    return next((each for each in model.figures if each.name == figure.name), None)


def _title(figure: Figure) -> str:
    """The metric in words, with its role where there are several."""
    role = f", {figure.role}" if figure.name != figure.metric else ""
    return f"{METRICS[figure.metric].title}{role}"


def _better(figure: Figure) -> str:
    metric = METRICS[figure.metric]
    better = metric.at_target if figure.role in ("", "target") else metric.elsewhere
    return f"{better} is better; " if better else ""


def _number(metric: str, value: float, *, signed: bool = False) -> str:
    digits = 4 if metric in ("kid", "cmmd") else 2 if metric in ("fid", *_RATES) else 3
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _interval(metric: str, interval: Interval) -> str:
    value, low, high = (_number(metric, each) for each in interval)
    return f"{value} <small>[{low}, {high}]</small>"
