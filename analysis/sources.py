"""Which files of the project a part depends on, found by reading its imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["ROOT", "source_digest", "sources_of"]

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("fdiv_jax", "analysis")
_LAZY = "fdiv_jax"  # its names live elsewhere and are fetched on first use


def _locate(module: str, root: Path) -> Path | None:
    if module.split(".")[0] not in _PACKAGES:
        return None
    base = root.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: blocks for type checkers are skipped, function bodies are not."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield other
                yield from _walk(other)
            continue
        yield child
        yield from _walk(child)


def _imports(path: Path, root: Path) -> Iterator[str]:
    """Absolute names the file imports, `module` or `module.name`; `fdiv_jax.*` for all of it."""
    package = list(path.relative_to(root).with_suffix("").parts[:-1])
    for node in _walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield f"{_LAZY}.*" if alias.name == _LAZY else alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(above + (node.module.split(".") if node.module else []))
            yield module
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                if module == _LAZY and _locate(inner, root) is None:
                    yield f"{_LAZY}.*"
                yield inner
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def sources_of(module: str, root: Path = ROOT) -> list[Path]:
    """The project's files that running `module` can reach through imports, itself first to last by name.

    The library's packages above each module count too, as they run on import; the lazy `fdiv_jax/__init__.py`
    counts without what it could fetch, unless a name of it is imported from it. The list of parts does not
    count: a new part leaves the others as they are.
    """
    found: set[Path] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        if name == f"{_LAZY}.*":
            queue += [
                ".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                for p in (root / _LAZY).rglob("*.py")
                if p.parent != root / _LAZY or p.name != "__init__.py"
            ]
            continue
        path = _locate(name, root)
        if path is None or path in found:
            continue
        found.add(path)
        parts = name.split(".")
        if parts[0] == _LAZY:
            queue += [".".join(parts[:i]) for i in range(1, len(parts))]
        if name != _LAZY:
            queue += list(_imports(path, root))
    return sorted(found)


def source_digest(module: str, inputs: Iterable[str] = (), root: Path = ROOT) -> str:
    """SHA-256 over the names and contents of `sources_of(module)` and of the files that match `inputs`.

    Raises:
      ValueError: the module is not the project's, or a pattern of `inputs` matches no file.
    """
    files = set(sources_of(module, root))
    if not files:
        raise ValueError(f"expected a module of {' or '.join(_PACKAGES)}, got {module!r}")
    for pattern in inputs:
        matched = {p for p in root.glob(pattern) if p.is_file()}
        if not matched:
            raise ValueError(f"{module}: no file matches the input {pattern!r} under {root}")
        files |= matched
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(str(path.relative_to(root)).encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
