"""The tab Explore without a browser: expressions in, HTML out."""

import functools
import re
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from fdiv_jax.app import charts
from fdiv_jax.app.charts import descent_chart, panels
from fdiv_jax.app.explorer import EXAMPLES, answers, explore, message
from fdiv_jax.app.links import LONGEST
from fdiv_jax.divergences import divergence
from fdiv_jax.explore import sections

VOID = {"br", "img", "input", "hr", "wbr"}


class Balanced(HTMLParser):
    """Checks that every element is closed where it should be, and that nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        assert tag != "script"
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith(("?", "#", "data:")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def text_of(html):
    parser = Balanced()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return " ".join("".join(parser.text).split())


@pytest.fixture(scope="module")
def hellinger():
    return explore("squared_hellinger")


def test_everything_is_shown(hellinger):
    summary = text_of(hellinger.summary)
    assert "squared_hellinger" in summary
    assert "curvature f″(1)1/2" in summary
    assert "bounded by2" in summary
    formulas = text_of(hellinger.formulas)
    for piece in (
        r"\left(\sqrt{t} - 1\right)^{2}",
        "$$f^*(s)$$",
        r"2 - 2 e^{- \frac{m}{8}}",
        r"\frac{e^{- \frac{m}{8}}}{2}",
    ):
        assert piece in formulas
    details = text_of(hellinger.details)
    for section in list(sections(divergence("squared_hellinger")))[1:]:
        assert section.title in details
    assert "critically damped at q/k = 2 f''(1) = 1" in details


def test_the_charts_are_nine_and_follow_the_theme(hellinger):
    charts = re.findall(r"<svg.*?</svg>", hellinger.charts, re.DOTALL)
    assert len(charts) == 9
    text_of(hellinger.charts)
    for chart in charts:
        root = ElementTree.fromstring(chart.replace("xlink:href", "href"))
        assert root.get("viewBox")
        assert "width" not in root.attrib  # as wide as its place
        colours = set(re.findall(r"#[0-9a-f]{6}", chart)) - set(re.findall(r"url\((#[0-9a-f]{6})", chart))
        assert not colours, "colours that do not follow the theme"
        assert "var(--fx-" in chart
        assert "<style" not in chart
    labels = [re.search(r'aria-label="([^"]*)"', chart)[1] for chart in charts]
    assert len(set(labels)) == 9
    assert "generator f" in labels[0]


@pytest.mark.parametrize("m", [[0.034, 0.02, 0.05, 0.045, 0.05], [9.0, 5.0, 0.9], [9.0, 0.9, 1e-3]])
def test_an_axis_of_m_has_two_numbers_at_least(m):
    """Where m spans less than one power of ten, one, and four."""
    numbers = [float(text) for text in re.findall(r">([\d.]+)</text>", descent_chart(m, 100))]
    steps = {0, 20, 40, 60, 80, 100}
    assert len({number for number in numbers if min(m) / 1.5 <= number <= max(m) * 1.5} - steps) >= 2


def test_settings_of_the_process_do_not_reach_a_chart():
    import matplotlib

    d, others = divergence("kl"), {"axes.grid": True, "grid.color": "#e4e4e4", "font.size": 30}
    before = panels(d)
    with matplotlib.rc_context(others):
        assert panels(d) == before
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.slow
def test_nothing_of_the_chart_before_is_left(monkeypatch):
    """Charts are drawn on axes that are kept."""
    subjects = [divergence(text) for text in ("kl", "total_variation", "(t - 1)**4", "alpha(3)")]

    def drawn(order):
        monkeypatch.setattr(charts, "_axes", functools.cache(charts._axes.__wrapped__))
        return {place: panels(*order[place]) for place in range(len(order))}

    pairs = [(d,) for d in subjects] + [(subjects[1], subjects[3]), (subjects[0],)]
    in_turn = drawn(pairs)
    assert in_turn[0] == in_turn[5]
    for place, pair in enumerate(pairs):
        alone = drawn([pair])[0]
        different = [name for name in alone if in_turn[place][name] != alone[name]]
        assert not different, (pair, different)


def test_two_side_by_side():
    found = explore("kl", "total_variation")
    assert found.summary.count("<section") == found.formulas.count("<dl") == 2
    details = text_of(found.details)
    assert "f''(1) is infinite" in details
    assert "\\frac" not in details
    assert "total_variation" in found.charts


@pytest.mark.parametrize(
    ("text", "against", "reason"),
    [
        ("t**2", "", "f(1) must be 0"),
        ("hellinger", "", "did you mean 'squared_hellinger'?"),
        ("", "", "empty"),
        ("kl", "log(t)", "not convex"),
        ("__import__('os').system('true')", "", "allowed are"),
        ("t" * (LONGEST + 1), "", "expected at most"),
        ("<script>alert(1)</script>", "", ""),
    ],
)
def test_a_bad_expression_is_answered_with_the_librarys_message(text, against, reason):
    with pytest.raises(ValueError) as caught:
        explore(text, against)
    told = message(caught.value)
    assert reason in told
    assert "\n" not in told
    if reason and len(text) <= LONGEST:
        with pytest.raises(ValueError) as own:
            divergence(against or text)
        assert told == " ".join(str(own.value).split())


@pytest.mark.parametrize(("label", "f", "against"), EXAMPLES)
@pytest.mark.slow
def test_the_examples_work(label, f, against):
    found = explore(f, against)
    for part in (found.summary, found.formulas, found.charts, found.details):
        text_of(part)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["(t - 1)**4", "Max(1 - t, 0)**2", "abs(t - 1)**1.5", "t**2 - 1 + sin(t)/100 - sin(1)/100"]
)
def test_where_something_is_missing_the_rest_is_shown(text):
    assert explore(text).charts.count("<svg") == 9


def test_an_answer_takes_less_than_a_second(hellinger):
    begun = time.process_time()
    first, whole = answers("(t-1)**2/(t+1) + (t-1)**2/7")
    assert time.process_time() - begun < 4  # 0.9 on an idle core; others share this one
    assert (first.summary, first.formulas, first.details) == (whole.summary, whole.formulas, whole.details)
    assert first.charts.count("fx-pending") == whole.charts.count("<svg") == 9
    text_of(first.charts)
