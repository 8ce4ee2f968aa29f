"""The documentation site builds without a warning, has every public name, and asks nothing of the network."""

import re
import subprocess
import sys

import pytest

from tests.pages import ROOT

ELSEWHERE = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


@pytest.mark.slow
def test_the_site_is_whole(tmp_path):
    pytest.importorskip("material", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > 30
    wanted = {str(path): ELSEWHERE.findall(text) for path, text in pages.items()}
    assert not any(wanted.values()), wanted
    styles = "".join(path.read_text() for path in tmp_path.rglob("*.css"))
    assert not re.search(r"@import|url\([\"']?https?:", styles)
    reference = "".join(text for path, text in pages.items() if path.parts[0] == "reference")
    found = set(re.findall(r'id="(fdiv_jax[\w.]*)"', reference))
    names = re.findall(
        r'href="[\w.]+\.html#(fdiv_jax[\w.]+)"><code>',
        pages[next(p for p in pages if str(p) == "reference/index.html")],
    )
    assert len(names) > 200
    assert set(names) <= found


@pytest.mark.parametrize(
    ("tag", "elsewhere"),
    [
        ('<script src="https://cdn.example.org/x.js">', True),
        ('<link rel="stylesheet" href="//fonts.example.org/css">', True),
        ("<img src=https://example.org/a.png>", True),
        ('<a href="https://example.org">', False),
        ('<script src="../assets/x.js">', False),
    ],
)
def test_what_asks_the_network_is_seen(tag, elsewhere):
    assert bool(ELSEWHERE.search(tag)) == elsewhere
