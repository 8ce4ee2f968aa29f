"""The promises every module keeps: layers, documentation, a small import."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fdiv_jax

ROOT = Path(__file__).resolve().parents[1]

# From the bottom to the top: a module may import from its own layer and from those named for it, nothing else
# of the project.
_MATHS = {"divergences", "theory"}
_COMMON = {"arrays", "compiling", "files", "interrupts", "terminal", "pages", "assets"}
_MODELS = {"nn", "diffusion", "checkpoints", "pipeline"} | _COMMON
LAYERS: dict[str, set[str]] = {
    "arrays": set(),
    "compiling": set(),
    "files": set(),
    "interrupts": set(),
    "terminal": set(),
    "pages": set(),
    "assets": set(),
    "divergences": {"arrays"},
    "theory": {"arrays", "divergences"},
    "explore": {"arrays", "files", "pages"} | _MATHS,
    "nn": {"divergences"} | _COMMON,
    "diffusion": {"divergences"} | _COMMON,
    "checkpoints": {"nn", "diffusion"} | _COMMON,
    "pipeline": {"nn", "diffusion", "checkpoints"} | _COMMON,
    "distributed": _MATHS | _MODELS,
    "unlearning": _MATHS | _MODELS | {"distributed"},
    "evaluation": _MATHS | _MODELS | {"distributed", "unlearning"},
    "monitoring": _MATHS | _MODELS | {"distributed", "unlearning", "evaluation"},
    "worlds": _MATHS | _MODELS | {"distributed", "unlearning", "evaluation", "monitoring"},
    "app": _MATHS | _MODELS | {"distributed", "unlearning", "evaluation", "monitoring", "worlds", "explore"},
    "cli": _MATHS
    | _MODELS
    | {"distributed", "unlearning", "evaluation", "monitoring", "worlds", "explore", "app"},
}
# Calls that reach another package by its name: modules, and the files that lie in it.
READERS = ("import_module", "__import__", "resources.files", "resources.path", "resources.open_text")
PROJECT = ("fdiv_jax", "analysis", "benchmarks")
LIGHT = ("divergences", "theory")  # without Flax or anything of the models
ORACLES = {"torch", "diffusers"}  # tests compare with them; the library never needs them
MODEL_PACKAGES = {"flax", "optax", "orbax", "transformers", "tokenizers", "safetensors", "huggingface_hub"}
NOT_LIGHT = MODEL_PACKAGES | {"scipy"}  # with which the tests of the mathematics compare


def modules_of(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)


def imported(path: Path, source: str | None = None) -> list[tuple[str, int]]:
    """Every absolute module name the file imports anywhere, functions included, with its line."""
    names = []
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(source if source is not None else path.read_text())):
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else package[: len(package) - node.level + 1]
            module = ".".join(base + (node.module.split(".") if node.module else []))
            names += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(READERS)
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.append((str(node.args[0].value), node.lineno))
    return names


def layering_faults(path: Path, source: str | None = None) -> list[str]:
    layer = path.relative_to(ROOT / "fdiv_jax").parts[0].removesuffix(".py")
    faults = []
    if layer == "__init__":
        return faults
    if layer not in LAYERS:
        return [f"{path.relative_to(ROOT)}: layer {layer!r} has no place in LAYERS; give it one"]
    for name, line in imported(path, source):
        top, *rest = name.split(".")
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if top == "fdiv_jax" and rest:
            if rest[0] in LAYERS and rest[0] != layer and rest[0] not in LAYERS[layer]:
                faults.append(f"{where}: {layer} may import only {sorted(LAYERS[layer]) or 'itself'}")
        elif top in {"analysis", "tests", "benchmarks"} or top in ORACLES:
            faults.append(f"{where}: not from inside the library")
        elif layer in LIGHT and top in NOT_LIGHT:
            faults.append(f"{where}: {layer} stays free of model packages and of scipy")
    return faults


def test_imports_point_downwards():
    faults = [fault for path in modules_of("fdiv_jax") for fault in layering_faults(path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("theory/x.py", "from fdiv_jax.nn import UNet2DConditionModel"),
        ("theory/x.py", "from ..nn import attention"),
        ("divergences/x.py", "from fdiv_jax import theory"),
        ("divergences/x.py", "def f():\n    import flax.nnx"),
        ("theory/x.py", "from scipy import special"),
        ("nn/x.py", "import torch"),
        ("pipeline/x.py", "import importlib\nimportlib.import_module('fdiv_jax.worlds.fashion')"),
        ("pipeline/x.py", "import importlib.resources\nimportlib.resources.files('fdiv_jax.worlds')"),
        ("pipeline/x.py", "from importlib import resources\nresources.files('fdiv_jax.worlds')"),
        ("novelty/x.py", ""),
    ],
)
def test_the_layering_check_sees_a_fault(module, source):
    assert layering_faults(ROOT / "fdiv_jax" / module, source)


def test_the_layering_check_lets_good_imports_pass():
    good = "from fdiv_jax.divergences import divergence\nfrom . import _spectra\nimport jax, fdiv_jax"
    assert not layering_faults(ROOT / "fdiv_jax" / "theory" / "x.py", good)


def private_faults(path: Path, source: str | None = None) -> list[str]:
    """Imports of a module whose name begins with an underscore from outside its own package."""
    package = path.relative_to(ROOT).parent.parts
    faults = []
    for name, line in imported(path, source):
        parts = name.split(".")
        private = [i for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
        for i in private if parts[0] in PROJECT else ():
            is_module = (ROOT.joinpath(*parts[: i + 1])).is_dir() or (
                ROOT.joinpath(*parts[:i], f"{parts[i]}.py").is_file()
            )
            if is_module and package[:i] != tuple(parts[:i]):
                faults.append(
                    f"{path.relative_to(ROOT)}:{line} imports {name}: private to {'.'.join(parts[:i])}"
                )
    return faults


def test_private_modules_are_imported_inside_their_own_package_only():
    faults = [fault for top in PROJECT for path in modules_of(top) for fault in private_faults(path)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source", "good"),
    [
        ("fdiv_jax/cli/x.py", "from fdiv_jax.unlearning import _validate", False),
        ("fdiv_jax/cli/x.py", "from fdiv_jax.unlearning._validate import whole", False),
        ("fdiv_jax/theory/x.py", "from ..divergences._make import divergence", False),
        ("analysis/x.py", "import fdiv_jax.divergences._make", False),
        ("fdiv_jax/unlearning/x.py", "from . import _validate", True),
        ("fdiv_jax/unlearning/library/x.py", "from fdiv_jax.unlearning import _validate", True),
        ("fdiv_jax/unlearning/x.py", "import numpy._typing", True),
    ],
)
def test_the_check_of_private_modules_tells_good_from_bad(module, source, good):
    assert bool(private_faults(ROOT / module, source)) != good


def public_modules() -> list[str]:
    names = ["fdiv_jax"]
    for info in pkgutil.walk_packages(fdiv_jax.__path__, "fdiv_jax."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            names.append(info.name)
    return names


def undocumented(holder: str, name: str, value: object) -> list[str]:
    """The public names at and under `value` that have no docstring of their own."""
    faults = []
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return faults
    if not str(getattr(value, "__module__", "")).startswith("fdiv_jax"):
        return faults
    doc = inspect.cleandoc(value.__doc__ or "") if value.__doc__ else ""
    # A dataclass or a named tuple without a docstring gets its signature for one.
    if not doc or doc.startswith(f"{name}("):
        faults.append(f"{holder}.{name}")
    if inspect.isclass(value):
        for key, member in vars(value).items():
            if key.startswith("_"):
                continue
            target = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(target) and not inspect.getdoc(getattr(value, key)):
                faults.append(f"{holder}.{name}.{key}")
    return faults


@pytest.mark.parametrize("module_name", public_modules())
def test_public_names_exist_and_are_documented(module_name):
    module = importlib.import_module(module_name)
    assert module.__doc__, f"{module_name} has no docstring"
    faults = []
    for name in getattr(module, "__all__", ()):
        faults += undocumented(module_name, name, getattr(module, name))
    assert not faults, f"without a docstring: {faults}"


def test_the_documentation_check_sees_a_gap():
    def silent():
        pass

    silent.__module__ = "fdiv_jax.somewhere"
    assert undocumented("fdiv_jax.somewhere", "silent", silent)


@pytest.mark.parametrize("package", ["fdiv_jax", "analysis"])
def test_files_stay_readable(package):
    long = {
        str(p.relative_to(ROOT)): n
        for p in modules_of(package)
        if (n := len(p.read_text().splitlines())) > 500
    }
    assert not long, f"over 500 lines: {long}"


@pytest.mark.parametrize("package", ["fdiv_jax", "fdiv_jax.explore", *(f"fdiv_jax.{name}" for name in LIGHT)])
def test_the_mathematics_loads_without_jax_and_the_models(package):
    """The imports are quick: JAX comes with the first function of it, nothing of the model stack ever."""
    heavy = sorted({"jax"} | NOT_LIGHT | ORACLES | {"matplotlib", "PIL", "tyro"})
    script = f"import sys, {package}\nprint(*(m for m in {heavy!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"{package} pulls in {done.stdout.split()}"


def test_an_unknown_top_level_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="load_pipeline"):
        fdiv_jax.no_such_name
