"""What the documents teach exists: names, paths, commands, links, and every public name in the reference."""

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import re
import shlex
import tomllib

import pytest

from fdiv_jax import cli
from tests.pages import PAGES, ROOT, anchors, blocks, commands, links

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


def named(page):
    return str(page.relative_to(ROOT))


def script(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_blocks(page):
    return [ast.parse(block.text) for block in blocks(page, "python")]


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


@pytest.mark.parametrize("page", PAGES, ids=named)
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


@pytest.mark.parametrize("page", PAGES, ids=named)
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
    named_there = set(re.findall(r"\w+", diagram)) - {"analysis"}
    there = {path.stem for path in (ROOT / "fdiv_jax").iterdir() if not path.name.startswith(("_", "py."))}
    assert named_there <= there, f"no such packages: {sorted(named_there - there)}"
    assert there == named_there, f"not in the diagram: {sorted(there - named_there)}"


@pytest.fixture
def parsed_only(monkeypatch, tmp_path):
    """Commands are read as the real command line reads them, but not run; there is a concept file."""
    monkeypatch.chdir(tmp_path)
    (concepts,) = blocks(ROOT / "docs" / "unlearning.md", "yaml")
    (tmp_path / "concepts.yaml").write_text(concepts.text)
    for name in cli.COMMANDS:
        monkeypatch.setattr(importlib.import_module(f"fdiv_jax.cli.{name}").Command, "run", lambda self: 0)


def complaint(words, capsys):
    """What is wrong with a command of a page; empty: nothing."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "srun":
        return complaint(rest, capsys)
    if program == "fdiv-jax":
        code = cli.main(rest)
        told = capsys.readouterr().err.strip()
        if code == 0 and rest[0] == "launch":
            return complaint(["fdiv-jax", *rest[rest.index("--") + 1 :]], capsys)
        return told if code else ""
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "".join(f"no target {name}" for name in targets if name not in known)
    if program == "pip":
        asked = re.fullmatch(r"(fdiv-jax|\.)(?:\[([\w,]+)\])?", rest[-1])
        extras = asked[2].split(",") if asked and asked[2] else []
        unknown = set(extras) - set(PROJECT["optional-dependencies"])
        return "" if asked and not unknown else f"pip cannot install {rest[-1]}"
    if program == "python" and rest[0] == "-m":
        if rest[1] == "analysis.convergence":
            from analysis.convergence import Command

            code = cli.run_command(Command, rest[2:], "python -m analysis.convergence")
            return capsys.readouterr().err if code else ""
        return "" if importlib.util.find_spec(rest[1]) else f"no module {rest[1]}"
    if program == "python":
        return "" if (ROOT / rest[0]).is_file() else f"no file {rest[0]}"
    if program == "docker":
        stages = re.findall(r"^FROM .* AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        asked = [after for word, after in itertools.pairwise(rest) if word == "--target"]
        return "".join(f"no stage {name}" for name in asked if name not in stages)
    return f"nothing here knows the program {program}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_of_the_pages_are_ones_that_the_command_line_takes(page, parsed_only, monkeypatch, capsys):
    from analysis.convergence import Command

    monkeypatch.setattr(Command, "run", lambda self: 0)
    wrong = {line: told for line, words in commands(page) if (told := complaint(words, capsys))}
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("fdiv-jax unlearn fashion --target x --los exact", "no option --los"),
        ("fdiv-jax explode kl", "no command"),
        ("fdiv-jax launch -n 2 -- unlearn fashion --tarket x", "--tarket"),
        ("make coffee", "no target coffee"),
        ('pip install "fdiv-jax[gpu]"', "cannot install"),
        ("python -m benchmarks.no_such", "no module"),
        ("python examples/no_such.py", "no file"),
        ("python -m analysis.convergence --onli x", "--onli"),
        ("docker build --target gpu .", "no stage gpu"),
        ("rm -rf /", "nothing here knows"),
    ],
)
def test_a_command_that_is_wrong_is_found(command, told, parsed_only, capsys):
    assert told in complaint(shlex.split(command), capsys)


def test_there_are_commands():
    assert sum(len(list(commands(page))) for page in PAGES) > 40


@pytest.fixture(scope="module")
def generated():
    """The pages that the site makes while it is built."""
    return script("hooks").generated_pages()


def targets_of(text):
    return set(re.findall(r"^(?:::: |## )(fdiv_jax[\w.]*)", text, re.MULTILINE))


def test_every_public_name_is_in_the_reference(generated):
    """By importing every public package; the pages are made without importing any."""
    described = set()
    for name, content in generated.items():
        if name.startswith("reference/"):
            described |= targets_of(content)
    packages = [path.parent.name for path in (ROOT / "fdiv_jax").glob("*/__init__.py")]
    public = [f"fdiv_jax.{name}" for name in packages if name not in ("assets", "cli", "app")]
    missing = []
    for module in ["fdiv_jax", *public, "fdiv_jax.arrays", "fdiv_jax.terminal"]:
        for name in getattr(importlib.import_module(module), "__all__", ()):
            value = getattr(importlib.import_module(module), name)
            if not inspect.ismodule(value) and name != "__version__" and f"{module}.{name}" not in described:
                missing.append(f"{module}.{name}")
    assert len(described) > 200
    assert not missing, missing


def test_every_claim_is_a_section_of_the_gallery(generated):
    table = (ROOT / "paper_figures" / "README.md").read_text()
    rows = re.findall(r"^\| (C\d+) \| (.*?) \| \*\*(.*?)\*\* \|.* \| (.*) \|$", table, re.MULTILINE)
    assert [claim for claim, *_ in rows] == [f"C{i}" for i in range(1, 10)]
    for claim, says, verdict, evidence in rows:
        assert f"### {claim}: {verdict}\n\n{says}\n" in generated["gallery.md"]
        assert f"\n{evidence}\n" in generated["gallery.md"]
    assert "| evidence |" not in generated["gallery.md"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page, generated):
    """Files and headings; of addresses elsewhere only the form is looked at."""
    wrong = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            if not re.fullmatch(r"(https://[\w.-]+\.[a-z]+(/[\w.,~%/=?&+-]*)?|mailto:[\w.@-]+)", target):
                wrong.append(link)
            continue
        place = page if not target else page.parent / target
        inside = place.resolve().is_relative_to(ROOT / "docs")
        if inside and str(place.resolve().relative_to(ROOT / "docs")) in generated:
            continue
        if not place.exists() or (anchor and anchor not in anchors(place)):
            wrong.append(link)
    assert not wrong, wrong


def test_the_readme_is_short_and_says_how_to_install_first():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    assert text.index("pip install fdiv-jax") < text.index("![")
    assert max(map(len, text.splitlines())) <= 200


def test_notebooks_are_in_step_with_their_pages():
    notebooks = script("notebooks")
    assert [page.name for page in notebooks.pages()] == [page.name for page in TUTORIALS]
    for page in notebooks.pages():
        stored = page.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert stored == notebooks.notebook(page), f"{page.name}: run python docs/notebooks.py"
        cells = json.loads(stored)["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for block in blocks(page, "python"):
            assert block.text.strip() in code
        assert all({"cell_type", "metadata", "source", "id"} <= cell.keys() for cell in cells)


def test_the_site_lists_every_page(generated):
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w/]+\.md", str(yaml.safe_load(text)["nav"])))
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    made = {name for name in generated if name.endswith(".md") and not name.startswith("reference/fdiv")}
    assert written | made == listed
