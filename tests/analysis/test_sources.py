"""Which files a part of the analysis depends on, and the digest of them."""

import sys
from pathlib import Path

import pytest

from analysis import convergence, sources
from analysis.parts import PARTS
from fdiv_jax.cli.reproduce import Command


def test_sources_follow_imports_but_not_types(tmp_path):
    for name, text in {
        "fdiv_jax/__init__.py": "",
        "fdiv_jax/low/__init__.py": "from fdiv_jax.low._inner import x",
        "fdiv_jax/low/_inner.py": "x = 1",
        "fdiv_jax/other.py": "",
        "analysis/__init__.py": "",
        "analysis/parts/__init__.py": "from analysis import runner",
        "analysis/runner.py": "",
        "analysis/tools.py": "import numpy",
        "analysis/parts/one.py": """
from typing import TYPE_CHECKING
from .. import tools
if TYPE_CHECKING:
    from analysis.runner import Context
def run(context):
    from fdiv_jax.low import x
""",
        "analysis/parts/two.py": "import fdiv_jax as fj",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def names(module):
        return {str(p.relative_to(tmp_path)) for p in sources.sources_of(module, tmp_path)}

    assert names("analysis.parts.one") == {
        "analysis/__init__.py",
        "analysis/parts/one.py",
        "analysis/tools.py",
        "fdiv_jax/__init__.py",
        "fdiv_jax/low/__init__.py",
        "fdiv_jax/low/_inner.py",
    }
    assert {"fdiv_jax/other.py", "fdiv_jax/low/_inner.py"} <= names("analysis.parts.two")
    before = sources.source_digest("analysis.parts.one", root=tmp_path)
    (tmp_path / "fdiv_jax/other.py").write_text("y = 2")
    (tmp_path / "analysis/runner.py").write_text("y = 2")
    assert sources.source_digest("analysis.parts.one", root=tmp_path) == before
    (tmp_path / "fdiv_jax/low/_inner.py").write_text("x = 2")
    assert sources.source_digest("analysis.parts.one", root=tmp_path) != before
    (tmp_path / "weights.bin").write_bytes(b"1")
    with_input = sources.source_digest("analysis.parts.one", ["*.bin"], root=tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"2")
    assert sources.source_digest("analysis.parts.one", ["*.bin"], root=tmp_path) != with_input
    with pytest.raises(ValueError, match="no file matches"):
        sources.source_digest("analysis.parts.one", ["*.npz"], root=tmp_path)
    with pytest.raises(ValueError, match="numpy"):
        sources.source_digest("numpy", root=tmp_path)


@pytest.mark.slow
def test_an_installed_analysis_has_the_digest_of_the_repository(tmp_path):
    """`fdiv_jax.analysis` is the name that `fdiv-jax reproduce` runs the same files by."""
    for part in PARTS[:3]:
        installed = part.module.replace("analysis.", "fdiv_jax.analysis.", 1)
        assert sources.source_digest(installed) == sources.source_digest(part.module)
    module = sys.modules[Command.__module__]
    assert module.__name__ == "fdiv_jax.analysis.convergence"
    assert Path(module.__file__).samefile(convergence.__file__)


@pytest.mark.slow
def test_every_part_depends_on_what_it_measures():
    for part in PARTS:
        found = {str(p.relative_to(sources.ROOT)) for p in sources.sources_of(part.module)}
        assert f"{part.module.replace('.', '/')}.py" in found
    spectra = {str(p.relative_to(sources.ROOT)) for p in sources.sources_of("analysis.parts.spectra")}
    assert {"fdiv_jax/theory/jacobian.py", "fdiv_jax/divergences/variational.py"} <= spectra
    assert not any(name.startswith(("fdiv_jax/nn", "fdiv_jax/worlds")) for name in spectra)
