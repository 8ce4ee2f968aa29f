"""A link restores what the page shows, and nothing that it says can harm."""

from urllib.parse import parse_qsl

import pytest

from fdiv_jax.app.links import LONGEST, View

VIEWS = [
    View(),
    View(f="t*log(t) - (t+1)*log((t+1)/2)", against="alpha(0.5)"),
    View(f="a&b=c#d ?%+"),
    View("unlearn"),
    View("unlearn", target="ankle boot", anchor="superclass", divergence="(t-1)**2/(t+1)", steps=7, seed=3),
]


@pytest.mark.parametrize("view", VIEWS)
def test_a_link_restores_the_view(view):
    assert View.of(dict(parse_qsl(view.query.removeprefix("?")))) == view


def test_the_default_has_the_shortest_link():
    assert View().query == "?"


@pytest.mark.parametrize(
    "query",
    [
        {"tab": "admin"},
        {"steps": "many"},
        {"steps": "-4"},
        {"steps": "9" * 30},
        {"steps": "٣"},
        {"seed": "1e3"},
        {"f": "t" * (LONGEST + 1)},
        {"__class__": "x", "query": "y"},
    ],
)
def test_what_is_not_of_its_kind_is_left_at_its_default(query):
    assert View.of(query) == View()
