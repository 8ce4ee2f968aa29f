"""The page, laid out with gradio: two tabs that hand their inputs to `explorer` and `runs`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from fdiv_jax.app import explorer, gallery
from fdiv_jax.app.links import LONGEST, View
from fdiv_jax.app.runs import ANCHORS, MOST_STEPS, Request, Studio, targets

__all__ = ["CSS", "page", "theme"]

CSS = Path(__file__).with_name("page.css").read_text()
_MATHS = [{"left": "$$", "right": "$$", "display": False}]
_HEAD = """<header class="fx-head"><h1>fdiv-jax</h1>
<p>Type a generator f and see everything that follows from it. Unlearn a concept and watch it fade.</p>
</header>"""
_ABOUT = """<p class="fx-note">A small text-to-image model of ten kinds of clothing in five styles forgets one
of them: at its prompts it learns to draw what it drew at the anchor's. Half of every batch keeps the rest
as it was.</p>"""
_ADDRESS = "(link) => { if (link) history.replaceState(null, '', link); }"
"""Puts the link to what is shown into the browser's address."""

Updates = list[Any]
"""What the outputs of an event become."""


def theme() -> gr.themes.Base:
    """System fonts alone: gradio's own theme asks another server for fonts."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    made = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono)
    return made.set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0d1117",
        block_background_fill="#ffffff",
        block_background_fill_dark="#151a21",
        block_border_color="#e2e6ea",
        block_border_color_dark="#262d36",
        border_color_primary_dark="#262d36",
        input_background_fill="#f6f7f9",
        input_background_fill_dark="#0d1117",
        button_primary_background_fill="#1f5fa8",
        button_primary_background_fill_hover="#184d8a",
        button_primary_background_fill_dark="#2f6fb8",
        button_primary_background_fill_hover_dark="#3a7cc8",
        button_primary_text_color="#ffffff",
    )


def page(studio: Studio) -> gr.Blocks:
    """The page; the runs of the tab Unlearn are made in the studio."""
    with gr.Blocks(title="fdiv-jax", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.HTML(_HEAD, padding=False)
        with gr.Tabs() as tabs:
            with gr.Tab("Explore", id="explore"):
                exploring, explored = _explore()
            with gr.Tab("Unlearn", id="unlearn"):
                unlearning = _unlearn(blocks, studio)
        opened = blocks.load(_opened, None, [tabs, *exploring, *unlearning], show_progress="hidden")
        opened.then(_answer, exploring, explored, show_progress="hidden", concurrency_limit=2)
    return blocks


def _opened(request: gr.Request) -> Updates:
    """The inputs that the link asks for."""
    view = View.of(dict(request.query_params))
    return [
        gr.Tabs(selected=view.tab),
        view.f,
        view.against,
        view.target if view.target in targets() else View.target,
        view.anchor if view.anchor in ANCHORS else View.anchor,
        view.divergence,
        min(max(view.steps, 1), MOST_STEPS),
        view.seed,
    ]


def _explore() -> tuple[list[Any], list[Any]]:
    """The tab Explore: its inputs and its outputs."""
    with gr.Row(equal_height=True):
        f = gr.Textbox(
            View.f, label="generator f(t), or a name", max_length=LONGEST, elem_id="fx-f",
            elem_classes="fx-expression", scale=5, min_width=240, autofocus=True,
        )  # fmt: skip
        against = gr.Textbox(
            "", label="beside it (optional)", placeholder="kl", max_length=LONGEST, elem_id="fx-against",
            elem_classes="fx-expression", scale=3, min_width=180,
        )  # fmt: skip
        go = gr.Button("Explore", variant="primary", scale=1, min_width=110, elem_id="fx-go")
    with gr.Row(elem_classes="fx-chips"):
        chips = [gr.Button(label, size="sm") for label, _, _ in explorer.EXAMPLES]
    message = gr.HTML(visible=False, padding=False, elem_id="fx-message")
    summary = gr.HTML(padding=False, elem_id="fx-summary")
    formulas = gr.Markdown(
        latex_delimiters=_MATHS,
        sanitize_html=False,
        visible=False,
        elem_id="fx-formulas",
    )
    charts = gr.HTML(padding=False, elem_id="fx-charts")
    details = gr.HTML(padding=False, elem_id="fx-details")
    link = gr.Textbox(visible=False)
    inputs, outputs = [f, against], [message, summary, formulas, charts, details, link]
    events = [
        gr.on(
            [go.click, f.submit, against.submit],
            _answer,
            inputs,
            outputs,
            concurrency_limit=2,
            show_progress="minimal",
        ),
        *(
            chip.click(partial(_example, place), None, [*inputs, *outputs], concurrency_limit=2)
            for place, chip in enumerate(chips)
        ),
    ]
    for event in events:
        event.then(None, link, None, js=_ADDRESS)
    return inputs, outputs


def _example(place: int) -> Iterator[Updates]:
    """The inputs of an example, and the answer."""
    _, f, against = explorer.EXAMPLES[place]
    for answer in _answer(f, against):
        yield [f, against, *answer]


def _answer(f: str, against: str) -> Iterator[Updates]:
    """What follows from the expression, the charts last; or the library's message about it."""
    try:
        for found in explorer.answers(f, against):
            yield _shown(found, f, against)
    except (ValueError, TypeError, NotImplementedError) as error:
        told = f'<div class="fx-message" role="alert">{escape(explorer.message(error))}</div>'
        yield [gr.HTML(told, visible=True), "", gr.Markdown(visible=False), "", "", ""]


def _shown(found: explorer.Explored, f: str, against: str) -> Updates:
    link = View("explore", f=f, against=against.strip()).query
    here = f'<p class="fx-link"><a href="{escape(link)}">Link to this view</a></p>'
    return [
        gr.HTML(visible=False),
        found.summary,
        gr.Markdown(found.formulas, visible=True),
        found.charts,
        found.details + here,
        link,
    ]


def _unlearn(blocks: gr.Blocks, studio: Studio) -> list[Any]:
    """The tab Unlearn: its inputs."""
    from fdiv_jax.divergences import catalogue

    stops: dict[str | None, threading.Event] = {}

    def begin(
        target: str, anchor: str, divergence: str, steps: float, seed: float, request: gr.Request
    ) -> Iterator[Updates]:
        who, stop = request.session_hash, threading.Event()
        end(request)
        stops[who] = stop
        asked = Request(target, anchor, divergence or "", int(steps), int(seed or 0))
        link = View(
            "unlearn",
            target=target,
            anchor=anchor,
            divergence=asked.divergence,
            steps=asked.steps,
            seed=asked.seed,
        )
        try:
            for sight in studio.run(asked, stop):
                files = [str(file) for file in sight.files]
                yield [gallery.show(sight), gr.File(files or None, visible=bool(files)), link.query]
        finally:
            stop.set()
            if stops.get(who) is stop:
                del stops[who]

    def end(request: gr.Request) -> None:
        if request.session_hash in stops:
            stops[request.session_hash].set()

    gr.HTML(_ABOUT, padding=False)
    with gr.Row(equal_height=True):
        target = gr.Dropdown(
            targets(), value=View.target, label="concept to unlearn", elem_id="fx-target", min_width=170
        )
        anchor = gr.Dropdown(
            [("its neighbour", "near"), ("its super-class", "superclass"), ("the empty prompt", "empty")],
            value=View.anchor, label="drawn in its place", elem_id="fx-anchor", min_width=170,
        )  # fmt: skip
        divergence = gr.Dropdown(
            list(catalogue()), value=View.divergence, label="divergence, or your own f(t)",
            allow_custom_value=True, elem_id="fx-divergence", elem_classes="fx-expression",
            scale=2, min_width=200,
        )  # fmt: skip
    with gr.Row(equal_height=True):
        steps = gr.Slider(1, MOST_STEPS, value=View.steps, step=1, label="steps", elem_id="fx-steps", scale=2)
        seed = gr.Number(View.seed, label="seed", precision=0, minimum=0, elem_id="fx-seed", min_width=100)
        go = gr.Button("Unlearn", variant="primary", elem_id="fx-unlearn", min_width=110)
        stop = gr.Button("Stop", elem_id="fx-stop", min_width=90)
    card = gr.HTML(padding=False, elem_id="fx-run")
    files = gr.File(
        label="LoRA and result", visible=False, file_count="multiple", interactive=False, elem_id="fx-files"
    )
    link = gr.Textbox(visible=False)
    inputs = [target, anchor, divergence, steps, seed]
    begun = go.click(begin, inputs, [card, files, link], concurrency_limit=None, show_progress="hidden")
    begun.then(None, link, None, js=_ADDRESS)
    stop.click(end, None, None, queue=False, show_progress="hidden")
    blocks.unload(end)
    return inputs
