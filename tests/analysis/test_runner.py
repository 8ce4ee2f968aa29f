"""The analysis as a whole: order, resume, failure, --only, and files written whole."""

import dataclasses
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from analysis import convergence, files, parts, runner, sources
from analysis.cells import decode, encode
from analysis.claims import CLAIMS
from analysis.convergence import main
from analysis.part import Part
from analysis.parts import PARTS
from analysis.report import readme
from analysis.runner import Context, Settings, run_parts
from fdiv_jax.cli._options import fields_help
from fdiv_jax.cli.reproduce import Command
from fdiv_jax.terminal import Console

GOOD = """
    from analysis.style import panels

    def run(context):
        figure, axis = panels(1, 1, 2.0, 2.0)
        axis.plot([0, 1], [0, {slope}])
        for _ in context.progress(range(3), "drawing"):
            pass
        context.figure("{name}", figure, shows="a line | of slope {slope}", rows=[{{"x": 1.0, "y": {slope}}}])
        context.claim("C7", "holds", "slope {slope}")
        return {{"{name}_slope": {slope}}}
"""
BAD = """
    def run(context):
        raise RuntimeError("no such luck")
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes part modules into a package of their own, and says how often each ran."""
    package = tmp_path / "parts_under_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within one second
    monkeypatch.setattr(runner, "source_digest", lambda module, inputs: digest(module))

    def path(name):
        return package / f"{name}.py"

    def digest(module):
        return files.digest(path(module.rsplit(".", 1)[1]))

    def write(name, text, **values):
        path(name).write_text(textwrap.dedent(text.format(name=name, **values)))
        sys.modules.pop(f"parts_under_test.{name}", None)
        sys.modules.pop("parts_under_test", None)
        return Part(name, f"parts_under_test.{name}", f"title of {name}")

    return write


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "figures", tmp_path / "state")


def run(parts, settings, only=()):
    """Returns the number of failures and what was printed."""
    console = Console(file=(out := open(Path(settings.work).with_suffix(".log"), "w+")), width=200)  # noqa: SIM115
    with out:
        failed = run_parts(parts, settings, only, console)
        out.seek(0)
        return failed, out.read()


def summary(settings):
    return json.loads((settings.output / "summary.json").read_text())


def test_a_run_leaves_pictures_numbers_summary_and_page(make, settings):
    parts = [make("first", GOOD, slope=1.5), make("second", GOOD, slope=2)]
    failed, _ = run(parts, settings)
    assert failed == 0
    for name in ("first", "second"):
        assert (settings.output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (settings.output / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (settings.output / f"{name}.csv").read_text().startswith("x,y\n1.0,")
    found = summary(settings)
    assert (found["first_slope"], found["second_slope"], found["quick"]) == (1.5, 2, False)
    assert set(found["wall_time_seconds"]) == {"first", "second"}
    assert found["versions"]["jax"]
    page = (settings.output / "README.md").read_text()
    assert "a line | of slope 1.5" in page
    assert "![second](second.png)" in page
    assert "| C7 |" in page
    assert "slope 1.5 (first) slope 2 (second)" in page
    assert page.count("not measured here") == len(CLAIMS) - 1


def test_what_is_still_good_is_kept(make, settings):
    parts = [make("first", GOOD, slope=1), make("second", GOOD, slope=2)]
    run(parts, settings)
    before = (settings.output / "README.md").read_bytes()
    _, said = run(parts, settings)
    assert said.count("unchanged, kept") == 2
    assert (settings.output / "README.md").read_bytes() == before


@pytest.mark.parametrize(
    "change", ["source", "missing picture", "edited numbers", "fresh clone", "quick", "force"]
)
def test_what_has_changed_is_computed_again(make, settings, change):
    parts = [make("first", GOOD, slope=1), make("second", GOOD, slope=2)]
    run(parts, settings)
    again = settings
    if change == "source":
        parts[1] = make("second", GOOD, slope=3)
    elif change == "missing picture":
        (settings.output / "second.pdf").unlink()
    elif change == "edited numbers":
        (settings.output / "second.csv").write_text("x,y\n1.0,7\n")
    elif change == "fresh clone":
        (settings.work / "full" / "second.json").unlink()
    else:
        again = Settings(settings.output, settings.work, quick=change == "quick", force=change == "force")
    failed, said = run(parts, again)
    assert failed == 0
    assert said.count("unchanged, kept") == (0 if change in ("quick", "force") else 1)
    assert summary(settings)["second_slope"] == (3 if change == "source" else 2)
    assert (settings.output / "second.csv").read_text() == f"x,y\n1.0,{3 if change == 'source' else 2}\n"
    assert summary(settings)["quick"] == (change == "quick")


def test_only_leaves_the_others_as_they_are(make, settings):
    parts = [make("first", GOOD, slope=1), make("second", GOOD, slope=2), make("third", GOOD, slope=3)]
    run(parts[:2], settings)
    parts[0] = make("first", GOOD, slope=9)
    _, said = run(parts, settings, only=["third"])
    assert "first" not in said
    found = summary(settings)
    assert [found[f"{name}_slope"] for name in ("first", "second", "third")] == [1, 2, 3]
    assert list(found["parts"]) == ["first", "second", "third"]


def test_a_failure_costs_only_its_part(make, settings):
    parts = [make("first", GOOD, slope=1), make("second", GOOD, slope=2), make("third", GOOD, slope=3)]
    run(parts, settings)
    parts[1] = make("second", BAD)
    failed, said = run(parts, settings)
    assert failed == 1
    assert "no such luck" in said
    found = summary(settings)
    assert (found["first_slope"], found["third_slope"]) == (1, 3)
    assert "second_slope" not in found
    assert found["parts"]["second"]["status"] == "failed"
    assert (
        "**Part `second` failed**: RuntimeError: no such luck" in (settings.output / "README.md").read_text()
    )
    parts[1] = make("second", GOOD, slope=4)
    failed, said = run(parts, settings)
    assert (failed, said.count("unchanged, kept")) == (0, 2)
    assert summary(settings)["parts"]["second"]["status"] == "done"


def test_what_a_failure_says_is_shown_as_it_is(make, settings):
    r"""No markup, no emoji codes, nothing that a terminal obeys."""
    text = r'def run(context):\n    raise RuntimeError("[/b] [red]:cat: \x1b]0;title\x07")\n'
    failed, said = run([make("first", text.encode().decode("unicode_escape"))], settings)
    assert failed == 1
    assert r"RuntimeError: [/b] [red]:cat: \x1b]0;title\x07" in said
    assert "\x1b" not in said


def test_two_parts_may_not_write_the_same_entry(make, settings):
    same = 'def run(context):\n    return {{"speed": 1}}\n'
    failed, said = run([make("first", same), make("second", same)], settings)
    assert failed == 1
    assert "both write the summary entry 'speed'" in said


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "object()"])
def test_a_number_that_is_none_fails_the_part(make, settings, value):
    failed, said = run(
        [make("first", 'def run(context):\n    return {{"speed": ' + value + "}}\n")], settings
    )
    assert failed == 1
    assert "entries.speed" in said


def test_an_interrupted_run_keeps_what_it_has(make, settings):
    parts = [make("first", GOOD, slope=1), make("second", "def run(context):\n    raise KeyboardInterrupt\n")]
    with pytest.raises(KeyboardInterrupt):
        run(parts, settings)
    assert summary(settings)["first_slope"] == 1
    parts[1] = make("second", GOOD, slope=2)
    assert run(parts, settings)[1].count("unchanged, kept") == 1


def test_unfinished_work_survives_until_the_code_changes(make, settings):
    stops = """
    def run(context):
        mark = context.work / "half"
        found = mark.exists()
        mark.write_text("done")
        if not found:
            raise RuntimeError("stopped half way")
        return {{"{name}_resumed": {value}}}
    """
    part = make("first", stops, value=1)
    assert run([part], settings)[0] == 1
    assert run([part], settings)[0] == 0
    part = make("first", stops, value=2)
    assert run([part], settings)[0] == 1  # another source: nothing of the old work is used
    assert run([part], settings)[0] == 0


def test_an_unknown_name_is_one_line_and_two(capsys, tmp_path):
    status = main(["--only", "spectra", "nonsense", "--output", str(tmp_path), "--work", str(tmp_path / "w")])
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    assert "'nonsense'" in said
    assert all(part.name in said for part in PARTS)
    assert not list(tmp_path.iterdir())


def test_wrong_options_exit_with_two(capsys):
    assert main(["--fast"]) == 2
    assert "--fast" in capsys.readouterr().err


def test_a_failed_part_makes_the_command_fail(make, tmp_path, capsys, monkeypatch):
    arguments = ["--output", str(tmp_path / "o"), "--work", str(tmp_path / "w")]
    for text, status in ((BAD, 1), (GOOD, 0)):
        monkeypatch.setattr(parts, "PARTS", [make("first", text, slope=1)])
        assert main(arguments) == status
    capsys.readouterr()


def test_a_quick_run_goes_elsewhere_and_gives_no_verdicts(make, tmp_path, capsys, monkeypatch):
    verdicts = GOOD.replace(
        '{{"{name}_slope": {slope}}}', '{{"{name}_slope": {slope}, "{name}_holds": {slope} < 3}}'
    )
    part = dataclasses.replace(make("first", verdicts, slope=2), seconds=(7200.0, 240.0))
    monkeypatch.setattr(parts, "PARTS", [part])
    monkeypatch.setattr(convergence, "_HOME", tmp_path)
    assert main([]) == 0
    full = {path: path.read_bytes() for path in (tmp_path / "paper_figures").iterdir()}
    assert json.loads(full[tmp_path / "paper_figures" / "summary.json"])["first_holds"] is True
    assert "about 120 min" in capsys.readouterr().err
    assert main(["--quick"]) == 0
    place = tmp_path / "paper_figures" / "quick"
    told = capsys.readouterr().err
    assert (
        f"quick run, no verdicts, about 4 min (a full run: about 120 min) on two cores; into {place}" in told
    )
    assert {path: path.read_bytes() for path in full} == full
    found = json.loads((place / "summary.json").read_text())
    assert found["first_slope"] == 2
    assert "first_holds" not in found
    assert found["parts"]["first"]["claims"] == []
    page = (place / "README.md").read_text()
    assert "judged by full runs alone" in page
    assert not any(word in page for word in ("holds", "fails", "C7"))


def test_a_quick_run_does_not_take_the_place_of_a_full_one(make, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "PARTS", [make("first", GOOD, slope=2)])
    place = ["--output", str(tmp_path / "o"), "--work", str(tmp_path / "w")]
    assert main([*place, "--quick"]) == 0
    assert main(place) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    capsys.readouterr()
    assert main([*place, "--quick"]) == 2
    told = capsys.readouterr().err
    assert "has the results of a full run (first)" in told
    assert told.count("\n") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before


def test_the_times_that_are_promised_are_those_of_the_committed_run():
    measured = json.loads((sources.ROOT / "paper_figures" / "summary.json").read_text())["wall_time_seconds"]
    for part in PARTS:
        assert part.seconds[1] <= part.seconds[0] < 2 * measured[part.name] + 5
        assert part.seconds[0] > 0.5 * measured[part.name] - 5


def test_the_help_names_the_parts():
    text = " ".join(part.name for part in PARTS).replace(" ", ", ")
    assert f"One of: {text}." in fields_help(Command)["only"]


STOPPED = """
    def run(context):
        def one(item):
            if item == {at}:
                raise KeyboardInterrupt
            (context.output / f"computed-{{item}}").write_text("")
            return {{"item": item, "half": item / 2}}
        rows = context.cells(range(4), "items", one)
        return {{"{name}_rows": rows}}
"""


def test_an_interrupted_part_goes_on_from_its_finished_cells(make, tmp_path, capsys, monkeypatch):
    arguments = ["--output", str(tmp_path / "o"), "--work", str(tmp_path / "w")]
    (tmp_path / "o").mkdir()
    monkeypatch.setattr(runner, "source_digest", lambda *_: "the same code")
    monkeypatch.setattr(parts, "PARTS", [make("first", STOPPED, at=2)])
    assert main(arguments) == 130
    told = capsys.readouterr().err.splitlines()
    assert told[1:] == [
        "python -m analysis.convergence: interrupted; the same command goes on from what is finished"
    ]
    for done in sorted((tmp_path / "o").glob("computed-*")):
        done.unlink()
    monkeypatch.setattr(parts, "PARTS", [make("first", STOPPED, at=9)])
    assert main(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "o").glob("computed-*")) == ["computed-2", "computed-3"]
    found = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert found["first_rows"] == [{"item": i, "half": i / 2} for i in range(4)]
    assert main([*arguments, "--force"]) == 0
    assert len(list((tmp_path / "o").glob("computed-*"))) == 4


def test_a_damaged_cell_is_computed_again(make, settings):
    counting = """
    def run(context):
        count = []
        rows = context.cells(range(3), "items", lambda item: count.append(item) or item)
        return {{"{name}_count": len(count), "{name}_rows": rows}}
    """
    part = make("first", counting)
    run([part], settings)
    assert summary(settings)["first_count"] == 3
    record = settings.work / "full" / "first.json"
    cells = sorted((settings.work / "full" / "first").rglob("items-*.json"))
    assert len(cells) == 3
    record.unlink()
    cells[1].write_text('{"name": "items 1", "seco')
    run([part], settings)
    assert (summary(settings)["first_count"], summary(settings)["first_rows"]) == (1, [0, 1, 2])


def test_two_kinds_of_cells_have_two_names(tmp_path):
    context = Context("part", False, tmp_path, tmp_path)
    assert context.cells([1], "items", lambda item: item) == [1]
    with pytest.raises(ValueError, match="two kinds of cells"):
        context.cells([1], "items", lambda item: -item)


def test_cells_keep_every_bit():
    rng = np.random.default_rng(0)
    value = {
        "complex": rng.standard_normal(3) + 1j * rng.standard_normal(3),
        "single": rng.standard_normal((2, 0, 3)).astype(np.float32),
        "text": ["θ", None, True, np.float64(0.1), np.int32(3), np.bool_(False), float("inf")],
        "nested": ({"a": (1, 2)},),
    }
    found = decode(json.loads(json.dumps(encode(value))))
    for name in ("complex", "single"):
        assert found[name].dtype == value[name].dtype
        np.testing.assert_array_equal(found[name], value[name])
    assert found["text"] == ["θ", None, True, 0.1, 3, False, float("inf")]
    assert found["nested"] == [{"a": [1, 2]}]
    for wrong in (object(), {1: 2}, {"a": {3}}):
        with pytest.raises(TypeError, match="expected text, numbers"):
            encode(wrong)


def test_a_figure_needs_its_numbers_and_a_claim_its_name(tmp_path):
    context = Context("part", False, tmp_path, tmp_path)
    from analysis.style import panels

    figure, _ = panels(1, 1, 1.0, 1.0)
    with pytest.raises(ValueError, match="numbers"):
        context.figure("f", figure, shows="nothing")
    with pytest.raises(ValueError, match="C1"):
        context.claim("C10", "holds", "")
    with pytest.raises(ValueError, match="holds in part"):
        context.claim("C1", "perhaps", "")
    context.figure("f", figure, shows="x", numbers={"a": np.float32(1.5)})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": 1.5}
    with pytest.raises(ValueError, match="twice"):
        context.figure("f", figure, shows="x", numbers={})


def test_the_same_numbers_give_the_same_files(tmp_path):
    from analysis.style import panels

    written = []
    for name in ("one", "two"):
        context = Context("part", False, tmp_path / name, tmp_path)
        figure, axis = panels(1, 1, 2.0, 2.0)
        axis.plot([0, 1], [0, 1], label="θ")
        context.figure("f", figure, shows="x", rows={"x": [1.0, 2.0], "y": np.array([0.1, np.inf])})
        written.append(context.figures[0]["files"])
    assert written[0] == written[1]


def test_mixed_verdicts_hold_in_part():
    claim = {"claim": "C1", "evidence": "a | b"}
    states = {
        name: {
            "claims": [claim | {"verdict": verdict}],
            "quick": True,
            "status": "done",
            "figures": [],
            "entries": [],
        }
        for name, verdict in (("x", "holds"), ("y", "fails"))
    }
    states["y"]["quick"] = False
    page = readme({"parts": states, "versions": {}, "wall_time_seconds": {}}, [])
    assert "**holds in part** | a \\| b (x) a \\| b (y) |" in page
    assert "**Quick run**, on smaller grids and with fewer divergences: x." in page


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "numbers.csv"
    files.write_whole(target, "old")

    def broken(self, data):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", broken)
        with pytest.raises(OSError, match="disk full"):
            files.write_whole(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["numbers.csv"]


def test_tables_are_checked():
    assert files.csv_text({"a": [1, 2], "b": np.array([0.1, 1e-300])}) == "a,b\n1,0.1\n2,1e-300\n"
    with pytest.raises(ValueError, match="at least one row"):
        files.csv_text([])
    with pytest.raises(ValueError, match="nan in row 1, column a"):
        files.csv_text([{"a": 1.0}, {"a": float("nan")}])
    with pytest.raises(ValueError, match="columns"):
        files.csv_text([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match=r"at .a\[1\]"):
        files.json_text({"a": [1.0, float("inf")]})


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
