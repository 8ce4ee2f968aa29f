"""Which files of the project a part depends on, found by reading its imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ROOT", "source_digest", "sources_of"]

ROOT = Path(find_spec("fdiv_jax").origin).resolve().parents[1]  # pyright: ignore
"""Where `fdiv_jax` is: the repository, or the folder that a wheel was installed into."""
_ANALYSIS, _LIBRARY = "analysis", "fdiv_jax"
_INSTALLED = f"{_LIBRARY}.{_ANALYSIS}"
"""What the analysis is called where a wheel was installed, or `fdiv-jax reproduce` runs it."""


def _canonical(module: str) -> str:
    """The name that a module has in the repository, so that both names give one digest."""
    inside = module == _INSTALLED or module.startswith(f"{_INSTALLED}.")
    return module.removeprefix(f"{_LIBRARY}.") if inside else module


def _base(package: str, root: Path | None) -> Path:
    """The folder of the analysis or of the library, below `root` where one is named."""
    if root is None and package == _ANALYSIS:
        return Path(__file__).resolve().parent
    return (root or ROOT) / package


def _locate(module: str, root: Path | None) -> Path | None:
    package, *rest = module.split(".")
    if package not in (_ANALYSIS, _LIBRARY):
        return None
    base = _base(package, root).joinpath(*rest)
    for candidate in (*([base.with_suffix(".py")] if rest else []), base / "__init__.py"):
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


def _imports(module: str, path: Path, root: Path | None) -> Iterator[str]:
    """Absolute names the file imports, `module` or `module.name`; `fdiv_jax.*` for all of it."""
    package = module.split(".")[: None if path.name == "__init__.py" else -1]
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield f"{_LIBRARY}.*" if alias.name == _LIBRARY else alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join(above + (node.module.split(".") if node.module else []))
            yield name
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                if name == _LIBRARY and _locate(inner, root) is None:  # fetched lazily from anywhere in it
                    yield f"{_LIBRARY}.*"
                yield inner
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value
                elif path.name == "__init__.py" and module != _LIBRARY:  # any module of this package
                    yield from (f"{module}.{other.stem}" for other in sorted(path.parent.glob("*.py")))


def _whole_library(root: Path | None) -> Iterator[str]:
    """Every module of `fdiv_jax` below its `__init__`; an installed analysis is not part of it."""
    base = _base(_LIBRARY, root)
    for path in base.rglob("*.py"):
        parts = path.relative_to(base).with_suffix("").parts
        if parts[0] not in ("__init__", _ANALYSIS):
            yield ".".join((_LIBRARY, *parts)).removesuffix(".__init__")


def _named_sources(module: str, root: Path | None) -> dict[str, Path]:
    """The files of `sources_of` by the name that each has in the repository."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    queue = [_canonical(module)]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        if name == f"{_LIBRARY}.*":
            queue += _whole_library(root)
            continue
        path = _locate(name, root)
        if path is None:
            continue
        parts = name.split(".")
        found[(Path(parts[0]) / path.relative_to(_base(parts[0], root))).as_posix()] = path
        if parts[0] == _LIBRARY:
            queue += [".".join(parts[:i]) for i in range(1, len(parts))]
        if name != _LIBRARY:
            queue += [_canonical(each) for each in _imports(name, path, root)]
    return found


def sources_of(module: str, root: Path | None = None) -> list[Path]:
    """The project's files that running `module` can reach through imports, sorted.

    The library's packages above each module count too, as they run on import; the lazy `fdiv_jax/__init__.py`
    counts without what it could fetch, unless a name of it is imported from it. The list of parts does not
    count: a new part leaves the others as they are.

    Args:
      module: such as `analysis.parts.rates`; `fdiv_jax.analysis.parts.rates` is the same.
      root: the folder that holds `analysis` and `fdiv_jax`; None: where each of them is.
    """
    return sorted(_named_sources(module, root).values())


def source_digest(module: str, inputs: Iterable[str] = (), root: Path | None = None) -> str:
    """SHA-256 over the names and contents of `sources_of(module)` and of the files that match `inputs`.

    The patterns of `inputs` are relative to `root` (None: `ROOT`). An installed analysis has the digest that
    it has in the repository.

    Raises:
      ValueError: the module is not the project's, or a pattern of `inputs` matches no file.
    """
    named = _named_sources(module, root)
    if not named:
        raise ValueError(f"expected a module of {_ANALYSIS} or {_LIBRARY}, got {module!r}")
    base = root or ROOT
    for pattern in inputs:
        matched = {path.relative_to(base).as_posix(): path for path in base.glob(pattern) if path.is_file()}
        if not matched:
            raise ValueError(f"{module}: no file matches the input {pattern!r} under {base}")
        named |= matched
    total = hashlib.sha256()
    for name, path in sorted(named.items()):
        total.update(name.encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
