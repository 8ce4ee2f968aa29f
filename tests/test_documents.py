"""What the documents teach exists: every import and every `fj.` name in README and docs, and every path."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(page):
    return [ast.parse(block) for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


def imports(tree):
    """(module, name or None) of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def attributes(tree):
    """Every chain of names that begins at `fj`, the longest ones: ["theory", "game_rate"]."""
    inner = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        chain, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            inner.add(id(base))
            chain.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name) and base.id == "fj":
            yield chain[::-1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_taught_names_exist(page):
    for tree in python_blocks(page):
        for module, name in imports(tree):
            found = importlib.import_module(module)
            assert name is None or hasattr(found, name), f"{page.name} imports {name} from {module}"
        for chain in attributes(tree):
            found = importlib.import_module("fdiv_jax")
            for name in chain:
                assert hasattr(found, name), f"{page.name}: fj.{'.'.join(chain)}, and there is no {name}"
                found = getattr(found, name)
                if not (inspect.ismodule(found) or inspect.isclass(found)):
                    break


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page):
    folders = "fdiv_jax|analysis|benchmarks|tests|docs|paper_figures|launch|examples"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        made_by_running = path.startswith("paper_figures/quick")
        assert made_by_running or (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_documents_teach_something():
    trees = [tree for page in PAGES for tree in python_blocks(page)]
    assert sum(len(list(attributes(tree))) for tree in trees) > 6
    assert sum(len(list(imports(tree))) for tree in trees) > 5


def test_contributing_names_the_layers_that_exist():
    diagram = re.search(r"\n((?:    .*->.*\n)+)", (ROOT / "CONTRIBUTING.md").read_text()).group(1)
    named = set(re.findall(r"\w+", diagram)) - {"analysis"}
    there = {path.stem for path in (ROOT / "fdiv_jax").iterdir() if not path.name.startswith(("_", "py."))}
    assert named <= there, f"no such packages: {sorted(named - there)}"
    assert there == named, f"not in the diagram: {sorted(there - named)}"
