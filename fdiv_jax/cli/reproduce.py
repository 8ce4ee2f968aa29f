"""`fdiv-jax reproduce`: the analysis that comes with the package, theory against measurement."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["Command"]

_NAME = "fdiv_jax.analysis"


def _analysis() -> ModuleType:
    """The module `convergence` of the analysis.

    The analysis is inside the package where a wheel was installed. In a checkout it is beside the package,
    and gets the same name here.

    Raises:
        ModuleNotFoundError: an installation without the analysis.
    """
    package = Path(__file__).resolve().parents[1]
    beside = package.parent / "analysis"
    if not (package / "analysis").is_dir() and (beside / "convergence.py").is_file():
        start = beside / "__init__.py"
        spec = importlib.util.spec_from_file_location(_NAME, start, submodule_search_locations=[str(beside)])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[_NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"{_NAME}.convergence")


Command = _analysis().Command
