"""The report: one page that stands alone, says what is true, and takes no text for HTML."""

import base64
import errno
import html
import io
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
import tyro
from PIL import Image

from fdiv_jax.cli.unlearn import Command
from fdiv_jax.monitoring import Report
from fdiv_jax.monitoring._command import changes, repeating
from fdiv_jax.monitoring._curves import curves
from fdiv_jax.monitoring.report import page
from fdiv_jax.unlearning import (
    AnchorImagesConfig,
    CriticConfig,
    Erasure,
    LoraConfig,
    OptimiserConfig,
    PreservationConfig,
    PromptPair,
    UnlearningConfig,
)
from tests.monitoring.conftest import history_of

VOID = {"meta", "img", "br", "path", "use"}
HOSTILE = """</title><script>alert("1")</script><img src=x onerror='a()'>&amp; {x}"""


class Page(HTMLParser):
    """What a page holds; fails where its tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.images, self.texts, self._open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def decoded(image):
    kind, data = image["src"].split(",", 1)
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def strip():
    """A picture that stands for the concept as it fades."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.slow
def test_the_page_stands_alone(pipe, after, result, strip):
    pairs = (PromptPair("a sneaker, photo style", "a shoe, photo style"), PromptPair("a sneaker", ""))
    retained = "a shirt, photo style"  # the other one is empty
    text = page(pipe, result(pairs=pairs, seed=2), strip=strip)
    seen = Page(text)
    for name, value in seen.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/png;base64,", "#"))
        assert not name.startswith("on")
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link", text)
    identifiers = [value for name, value in seen.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert used <= set(identifiers)
    fading, *images = seen.images
    assert decoded(fading).shape == (20, 40, 3)
    options = {"steps": 2, "guidance": 2.0, "sampler": "dpm++", "seed": [2, 3]}
    expected = [
        (when, prompt, picture)
        for pair in pairs
        for when, model, prompt in (
            ("before", pipe, pair.target),
            ("after", after, pair.target),
            ("anchor", pipe, pair.anchor),
        )
        for picture in model([prompt] * 2, **options)
    ] + [
        (when, retained, picture)
        for when, model in (("before", pipe), ("after", after))
        for picture in model([retained] * 2, **options)
    ]
    assert len(images) == len(expected)
    for image, (when, prompt, picture) in zip(images, expected, strict=True):
        assert image["alt"] == f"{when}: {prompt}"
        np.testing.assert_allclose(decoded(image).astype(int), picture.astype(int), atol=1)
        assert image["width"] == image["height"] == "96"


def test_what_is_not_computed_in_the_warm_up_is_not_drawn():
    history = history_of(20, warmup=5)
    norm = history["gradient_norm"]
    zeros, nothing = (np.where(history["warmup"], value, norm) for value in (0.0, np.nan))
    drawn = [
        dict(curves(history | {"gradient_norm": values}))["gradient norm"] for values in (zeros, nothing)
    ]
    assert drawn[0] == drawn[1]


def test_what_it_says(pipe, result):
    history = history_of(20, warmup=5, skipped=[9])
    made = result(history=history, steps=20, divergence="kl", loss="variational", learning_rate=0.25)
    seen = Page(page(pipe, made, images=0))
    assert "sneaker → superclass" in seen.text
    assert "kl, variational loss; tiny; 25 steps of 16 in 00:01:15" in seen.text
    assert f"Learned: {made.selection}" in seen.text
    assert "learning_rate 0.25" in seen.text
    assert "batch_size" not in seen.text  # is the default
    loss = history["loss"][5:]
    assert f"first 2 steps {np.mean(loss[:2]):.4g} {np.mean(8 * loss[:2]):.4g}" in seen.text
    assert f"last 2 steps {np.mean(loss[-2:]):.4g}" in seen.text
    assert "1 steps were not finite" in seen.text
    assert "a sneaker, photo style a shoe, photo style" in seen.text
    assert "2 retained prompts (empty prompt) a shirt, photo style" in seen.text
    assert "ab" * 32 in seen.text
    assert re.search(r"jax \d+\.\d+", seen.text)
    assert seen.tags.count("svg") == 5  # the critic's value among them
    assert "Shaded" in seen.text
    assert "Red marks" in seen.text
    assert "fades" not in seen.text


def test_the_edit_has_no_curves(pipe, result):
    seen = Page(page(pipe, result(history={}, method="edit"), images=0))
    assert "closed-form edit; tiny; in 00:01:15" in seen.text
    assert "svg" not in seen.tags
    assert "Figures" not in seen.text
    assert "method edit" in seen.text


@pytest.mark.filterwarnings("ignore:.*prompts are cut to 24 tokens")
def test_text_is_no_html(pipe, result):
    pairs = (PromptPair(f"a {HOSTILE}", HOSTILE),)
    made = result(target=HOSTILE, anchor=HOSTILE + "x", prompts=(f"a {HOSTILE}",), pairs=pairs)
    made.model["name"] = HOSTILE
    made.divergence["generator"] = HOSTILE
    text = page(pipe, made, images=2)
    seen = Page(text)
    plain = Page(page(pipe, result(), images=2))
    assert set(seen.tags) == set(plain.tags)
    assert {name for name, _ in seen.attributes} == {name for name, _ in plain.attributes}
    assert seen.images[0]["alt"] == f"before: a {HOSTILE}"
    assert " ".join(HOSTILE.split()) in seen.text
    assert text.count(html.escape(HOSTILE)) >= 8
    assert HOSTILE not in text


def test_it_is_written_whole_with_the_strip(pipe, result, tmp_path, strip, monkeypatch):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "fading.png").write_bytes(strip)
    report = Report(pipe, tmp_path, images=0)
    report.row({"step": 1})
    report.model(0, lambda: pipe)
    report.end(result(target="shoe \udcff", prompts=("a shoe \udcff",)))  # a byte of the shell's, not UTF-8
    written = (tmp_path / "report.html").read_bytes()
    assert "The concept as it fades" in Page(written.decode("utf-8")).text

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=r"cannot write .*report\.html: No space left on device"):
        report.end(result())
    assert (tmp_path / "report.html").read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "samples"]


@pytest.mark.parametrize("steps", [1, 2, 39, 200, 3000])
def test_curves_of_any_length(steps):
    history = history_of(steps, warmup=steps // 3, skipped=[2])
    for name, values in history.items():
        if name == "gradient_norm":
            values[:] = np.nan
        elif name == "weight":
            values[:] = 0.5
    drawn = curves(history)
    titles = ["loss", "m, mean of the batch", "w_f(m), mean of the batch", "gradient norm"]
    assert [title for title, _ in drawn][:4] == titles
    assert sum(len(svg) for _, svg in drawn) < 400_000
    assert all(svg.startswith("<svg ") and svg.rstrip().endswith("</svg>") for _, svg in drawn)
    assert curves(history) == drawn
    assert "nan" not in "".join(svg for _, svg in drawn).lower()


def points(svg, colour="#3b7dd8"):
    """Corners of the first line in that colour."""
    path = re.search(rf'<path d="([^"]*)"[^>]*stroke: {colour}', svg)
    return np.array([[float(x) for x in pair] for pair in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path[1])])


def test_a_curve_is_where_its_figures_are():
    history = history_of(8)
    history["loss"] = 10.0 ** -np.arange(8)  # a straight line where the axis is logarithmic
    history["m"] = np.arange(8.0) - 3  # and where it is not, for some figures are negative
    history["weight"] = np.array([1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7])  # or near each other
    drawn = dict(curves(history))
    for title, slope in (("loss", 1), ("m, mean of the batch", -1), ("w_f(m), mean of the batch", -1)):
        x, y = points(drawn[title]).T
        assert np.all(np.diff(x) > 0)
        fit = np.polyfit(x, y, 1)
        np.testing.assert_allclose(np.polyval(fit, x), y, atol=0.05)
        assert fit[0] * slope > 0  # y points downwards


CONFIGS = [
    UnlearningConfig("sneaker"),
    UnlearningConfig(
        """a 'b' "c" $x""",
        anchor="prompt: a; b",
        divergence="-log(t)",
        loss="exact",
        prompts=("""a 'b' "c" $x""", """two a 'b' "c" $x"""),
        retained=(),
        timestep_range=(200, 400),
        normalise_curvature=True,
        optimiser=OptimiserConfig(name="sgd", clip_norm=1.0),
        critic=CriticConfig(spectral_norm=False, hidden_channels=(8, 9)),
        images=AnchorImagesConfig(mirror=True, folder="/a b/c"),
        preservation=PreservationConfig(weight=0.1, surgery=False),
        lora=LoraConfig(rank=4),
    ),
    UnlearningConfig("x", divergence="kl", retained=("", "a b"), learning_rate=1e-8, loss="variational"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_makes_the_same_run(config):
    program, name, *words = shlex.split(repeating({"name": "a model"}, config))
    assert (program, name) == ("fdiv-jax", "unlearn")
    command = tyro.cli(Command, args=words)
    assert command.config == config
    assert command.model == "a model"


def test_several_concepts_are_repeated_from_python():
    config = UnlearningConfig(concepts=(Erasure("sneaker"), Erasure("shirt", "empty")))
    text = repeating({"name": "fashion"}, config)
    compile(text, "report", "exec")
    assert "config.json" in text
    assert changes(config) == {"concepts": config.to_dict()["concepts"]}
