"""Every work that a docstring cites is in docs/bibliography.md, and every key is there once."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "bibliography.md"
# "Surname et al., ... 2017", "Surname and Surname 2017", "Surname 1958", in the paragraph of a source.
CITED = re.compile(
    r"\b([A-Z][a-zé]+)"
    r"(?:,? (?:et al\.|and [A-Z][a-z]+)|(?:, [A-Z][a-z]+)+(?:,? and [A-Z][a-z]+)?)?"
    r",? (?:[^.;\"()]*?, )?((?:19|20)\d\d)\b"
)


def entries():
    return re.findall(r"^\| ([a-z]+)((?:19|20)\d\d) \|", PAGE.read_text(), re.MULTILINE)


def cited():
    found = []
    for folder in ("fdiv_jax", "analysis"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for block in re.findall(r"Source[^:\n]*:(.*?)(?:\n\s*\n|\"\"\")", path.read_text(), re.DOTALL):
                found += [(path.name, *match) for match in CITED.findall(" ".join(block.split()))]
    return found


def test_keys_are_unique():
    keys = ["".join(entry) for entry in entries()]
    assert len(keys) == len(set(keys)) > 20


def test_the_pattern_reads_citations():
    assert len(cited()) > 20


def test_cited_works_are_listed():
    listed = entries()
    missing = [c for c in cited() if (c[1].lower().replace("é", "e"), c[2]) not in listed]
    assert not missing, f"not in docs/bibliography.md: {missing}"
