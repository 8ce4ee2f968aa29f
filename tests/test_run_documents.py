"""The Python of the pages runs, and prints what the pages say it prints (`# -> ...`)."""

import contextlib
import dataclasses
import io
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fdiv_jax as fj
from fdiv_jax import cli
from fdiv_jax.unlearning import UnlearningResult
from tests.evaluation.backbones import save_clip, save_inception
from tests.pages import PAGES, ROOT, blocks, commands, quickly_compiled
from tests.tiny import tiny_pipeline

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
QUICK = ["docs/tutorials/explore.md", "docs/tutorials/spectrum.md"]
WHOLE = ["docs/tutorials/unlearn.md"]
"""Pages whose runs are made in full, because they say what comes out; elsewhere a run has two steps."""
_PRINTS = re.compile(r"# -> (.*)$", re.MULTILINE)


def run(page, names):
    """Run the blocks of a page one after the other, as a reader would."""
    for block in blocks(page, "python"):
        if block.not_run:
            continue
        told = io.StringIO()
        place = f"{page.name}, line {block.line}"
        with contextlib.redirect_stdout(told):
            exec(compile(block.text, place, "exec"), names)
        expected = _PRINTS.findall(block.text)
        if expected:
            assert told.getvalue().splitlines() == [line.strip() for line in expected], place


def named(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def short_runs(place, monkeypatch):
    """Runs have two steps, of a tiny model in place of `fashion` and of the file that a page names."""
    whole, load = fj.unlearn, fj.load_pipeline
    tiny = tiny_pipeline().save("stand-in")
    names = dict.fromkeys(("fashion", "dreamy.safetensors"), tiny)
    monkeypatch.setattr(fj, "load_pipeline", lambda model, **more: load(names.get(model, model), **more))

    def unlearn(pipe, config, *more, **options) -> UnlearningResult:
        images = dataclasses.replace(config.images, number=2, steps=2)
        return whole(pipe, dataclasses.replace(config, steps=2, images=images), *more, **options)

    monkeypatch.setattr(fj, "unlearn", unlearn)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the models that the pages name, small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FDIV_JAX_CACHE", str(tmp_path / "cache"))
    tiny = tiny_pipeline(concepts=False)
    for name in ("my-model", "DIRECTORY", "hub"):
        tiny.save(tmp_path / name)
    for file in (tmp_path / "hub").glob("*/*.safetensors"):
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, *_, **__: str(tmp_path / ("clip" if name.startswith("openai/clip") else "hub")),
    )
    return tmp_path


@pytest.mark.parametrize("page", [ROOT / name for name in QUICK], ids=named)
def test_quick_pages_run(page, place):
    run(page, {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:remat .* is left out")  # what a page does for a GPU
@pytest.mark.parametrize("page", [p for p in WITH_PYTHON if named(p) not in QUICK + WHOLE], ids=named)
def test_pages_run(page, place, short_runs):
    if page.name == "own_model.md":
        pytest.importorskip("diffusers")
    names = {"fj": fj, "jnp": jnp}
    if page.name == "models.md":
        pipe = tiny_pipeline()
        names |= {"latents": np.zeros((1, *pipe.latent_shape), np.float32), "timesteps": np.array([3])}
    if page.name == "evaluation.md":
        save_clip(place / "clip")
        save_inception(place / "inception.safetensors")
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
        names |= {"images": images[0], "reference": images[1]}
        names |= dict(zip(("ours", "theirs"), rng.normal(size=(2, 5, 4)), strict=True))
        names |= dict(zip("xy", rng.normal(size=(2, 20, 3)), strict=True), prompt=np.repeat(np.arange(5), 4))
    if page.name == "export.md":
        config = fj.UnlearningConfig(target="sneaker", anchor="near")
        fj.unlearn(fj.load_pipeline("fashion"), config).save(place / "runs" / "sneaker")
    with quickly_compiled():
        run(page, names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [ROOT / name for name in WHOLE], ids=named)
def test_pages_with_whole_runs(page, place):
    run(page, {})


def test_what_a_page_says_it_prints_is_compared(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\n\n```python\nprint(x)  # -> 3\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md, line 5"):
        run(page, {})
    page.write_text(page.read_text().replace("-> 3", "-> 2"))
    run(page, {})


def test_few_blocks_are_not_run():
    left = [f"{named(p)}: {block.not_run}" for p in PAGES for block in blocks(p, "python") if block.not_run]
    assert len(left) <= 2, left


def test_a_block_that_is_not_run_says_so(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: costs the earth -->\n```python\n1 / 0\n```\n\n```python\n2 / 0\n```\n")
    assert [(block.line, block.not_run) for block in blocks(page)] == [(2, "costs the earth"), (6, "")]
    with pytest.raises(ZeroDivisionError):
        run(page, {})


SHORT = {
    "sample": ["--steps", "2"],
    "unlearn": ["--steps", "2", "--batch-size", "2", "--images.number", "2", "--images.steps", "2"],
    "export": [],
}
"""Commands that run here, and what makes them short."""


def short_commands(page, model):
    """The commands of a page that draw, unlearn and export `fashion`, with another model in its place."""
    for _, (program, name, *words) in commands(page):
        if program == "fdiv-jax" and name in SHORT and not {"--push", "DIRECTORY", "MODEL"} & set(words):
            # Two images in all, so that the networks are compiled for one shape.
            images = ["--images", str(2 // sum(" " in word for word in words))] if name == "sample" else []
            yield [name, *(model if w == "fashion" else w for w in words), *SHORT[name], *images]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "written"),
    [
        ("README.md", ("before.png", "after.png", "sneaker.safetensors")),
        ("docs/export.md", ("model.safetensors", "delta.safetensors", "share/sneaker/README.md")),
    ],
)
def test_the_commands_from_a_first_image_to_an_exported_model(page, written, place, capsys):
    """One after the other, on a tiny model."""
    model = str(tiny_pipeline().save("stand-in").resolve())
    with quickly_compiled():
        for words in short_commands(ROOT / page, model):
            assert cli.main(words) == 0, (words, capsys.readouterr().err)
    assert not [name for name in written if not Path(name).is_file()]
