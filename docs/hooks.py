"""Pages that mkdocs writes at build time: the reference of every public name, the gallery, the changelog.

They are made of what is there already (`__all__`, `paper_figures/README.md`, `CHANGELOG.md`), so that nothing
is said twice, and nothing public can be missing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["generated_pages", "on_config", "on_files", "public_names"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fdiv_jax"
_WITHOUT = ("assets", "cli", "app")
"""Packages without an interface in Python: data, commands, the page in a browser."""


def public_names() -> dict[str, list[str]]:
    """The public names of each public module: what `__all__` lists, without importing anything."""
    packages = [ROOT / PACKAGE / "__init__.py"]
    packages += sorted((ROOT / PACKAGE).glob("*/__init__.py"))
    packages += sorted(path for path in (ROOT / PACKAGE).glob("*.py") if path.name != "__init__.py")
    found = {}
    for path in packages:
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[1:2] and parts[1] in _WITHOUT:
            continue
        names = _listed(path)
        if names:
            found[module] = names
    return found


def _listed(path: Path) -> list[str]:
    """The names in `__all__`, in its order."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return []


def _reference() -> Iterator[tuple[str, str]]:
    modules = public_names()
    rows = ["| module | names |", "|---|---|"]
    for module, names in modules.items():
        shown = [name for name in names if name not in ("__version__", *_submodules(module))]
        lines = [f"# {module}", f"::: {module}", "    options:", "      members: false"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false", ""]
        elsewhere = _from_elsewhere(module)
        for name in shown:
            full = f"{module}.{name}"
            if name in elsewhere:
                lines += [
                    f"## {full} {{#{full}}}",
                    "",
                    f"`{elsewhere[name]}`, under a name of this package.",
                    "",
                ]
            else:
                lines += [f"::: {full}", ""]
        yield f"reference/{module}.md", "\n".join(lines)
        links = ", ".join(f"[`{name}`]({module}.md#{module}.{name})" for name in shown)
        rows.append(f"| [`{module}`]({module}.md) | {links} |")
    head = (
        "# Reference\n\nEvery public name, by its package; `import fdiv_jax as fj` brings the first row.\n\n"
    )
    yield "reference/index.md", head + "\n".join(rows) + "\n"


def _from_elsewhere(module: str) -> dict[str, str]:
    """Names that a module takes from other projects, with where they come from."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] != PACKAGE
        for alias in node.names
    }


def _submodules(module: str) -> list[str]:
    """Names in `__all__` of a package that are packages themselves, which have pages of their own."""
    folder = ROOT.joinpath(*module.split("."))
    return (
        [path.name for path in folder.glob("*/") if (path / "__init__.py").is_file()]
        if folder.is_dir()
        else []
    )


def generated_pages() -> dict[str, str | Path]:
    """Text, or the file to copy, of each page and picture that is not in docs/ itself."""
    pages: dict[str, str | Path] = dict(_reference())
    gallery = (ROOT / "paper_figures" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^# Figures$", "# Gallery", gallery, flags=re.MULTILINE)
    pages["gallery.md"] = _linked(_claims_told(text), "paper_figures/")
    for name in re.findall(r"!\[[^\]]*\]\(([\w.-]+\.png)\)", gallery):
        pages[f"paper_figures/{name}"] = ROOT / "paper_figures" / name
    pages["changelog.md"] = _linked((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    pages["contributing.md"] = _linked((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        pages[f"tutorials/{notebook.name}"] = notebook
    return pages


def _claims_told(text: str) -> str:
    """The table of claims as sections: its evidence is too long for a column of a page."""

    def told(row: re.Match[str]) -> str:
        claim, says, here, effect, interval, seeds, evidence = (cell.strip() for cell in row[1].split("|", 6))
        measured = f"*Effect {effect}, interval {interval}, {seeds} seeds.*" if seeds != "0" else ""
        return f"### {claim}: {here.strip('*')}\n\n{says}\n\n{measured}\n\n{evidence}\n"

    text = re.sub(r"^\| claim \| says .*\n\|[-|]+\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^\| (C\d+ \|.*) \|$", told, text, flags=re.MULTILINE)


def _linked(text: str, folder: str = "") -> str:
    """A page from elsewhere in the repository, its links as they are seen from docs/."""
    text = re.sub(r"(\]\()([\w.-]+\.png\))", rf"\1{folder}\2", text)
    return re.sub(r"(\]\()docs/", r"\1", text)


def on_config(config: Any) -> Any:
    """mkdocs: put a page into the navigation for every package."""
    for entry in config.nav or ():
        if isinstance(entry, dict) and "Reference" in entry:
            pages: list[Any] = ["reference/index.md"]
            entry["Reference"] = pages + [{name: f"reference/{name}.md"} for name in public_names()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: add the generated pages."""
    from mkdocs.structure.files import File

    for name, content in generated_pages().items():
        if files.get_file_from_path(name) is not None:
            continue
        if isinstance(content, Path):
            files.append(File.generated(config, name, abs_src_path=str(content)))
        else:
            files.append(File.generated(config, name, content=content))
    return files
