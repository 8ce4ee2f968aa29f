"""The analysis as a whole: order, resume, failure and --only."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from analysis import convergence, files, parts, runner, sources
from analysis.claims import CLAIMS
from analysis.convergence import main
from analysis.part import Part
from analysis.parts import PARTS
from analysis.runner import Context, Settings, run_parts
from fdiv_jax.cli._options import fields_help
from fdiv_jax.cli.reproduce import Command
from fdiv_jax.terminal import Console

PLAIN = """
    def run(context):
        context.evidence("C7", "slope {slope}")
        return {{"{name}_slope": {slope}}}
"""
GOOD = """
    from analysis.style import panels

    def run(context):
        figure, axis = panels(1, 1)
        axis.plot([0, 1], [0, {slope}])
        for _ in context.progress(range(3), "drawing"):
            pass
        context.figure("{name}", figure, shows="a line | of slope {slope}", rows=[{{"x": 1.0, "y": {slope}}}])
        context.evidence("C7", "slope {slope}")
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
    assert page.count("has not run") == len(CLAIMS)


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
    parts = [make("first", PLAIN, slope=1), make("second", GOOD, slope=2)]
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
    parts = [make("first", PLAIN, slope=1), make("second", PLAIN, slope=2), make("third", PLAIN, slope=3)]
    run(parts[:2], settings)
    parts[0] = make("first", PLAIN, slope=9)
    _, said = run(parts, settings, only=["third"])
    assert "first" not in said
    found = summary(settings)
    assert [found[f"{name}_slope"] for name in ("first", "second", "third")] == [1, 2, 3]
    assert list(found["parts"]) == ["first", "second", "third"]


def test_a_failure_costs_only_its_part(make, settings):
    parts = [make("first", PLAIN, slope=1), make("second", PLAIN, slope=2), make("third", PLAIN, slope=3)]
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
    parts[1] = make("second", PLAIN, slope=4)
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
    parts = [
        make("first", PLAIN, slope=1),
        make("second", "def run(context):\n    raise KeyboardInterrupt\n"),
    ]
    with pytest.raises(KeyboardInterrupt):
        run(parts, settings)
    assert summary(settings)["first_slope"] == 1
    parts[1] = make("second", PLAIN, slope=2)
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
    for text, status in ((BAD, 1), (PLAIN, 0)):
        monkeypatch.setattr(parts, "PARTS", [make("first", text, slope=1)])
        assert main(arguments) == status
    capsys.readouterr()


@pytest.mark.slow
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
    monkeypatch.setattr(parts, "PARTS", [make("first", PLAIN, slope=2)])
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


def test_a_long_part_runs_where_it_is_asked_for_and_stays_otherwise(make, tmp_path, capsys, monkeypatch):
    first, second = (
        make("first", PLAIN, slope=1),
        dataclasses.replace(make("second", PLAIN, slope=2), long=True),
    )
    monkeypatch.setattr(parts, "PARTS", [first, second])
    place = ["--output", str(tmp_path / "o"), "--work", str(tmp_path / "w")]
    for words, known in (([], {"first"}), (["--all"], {"first", "second"}), ([], {"first", "second"})):
        assert main([*place, *words]) == 0
        assert set(json.loads((tmp_path / "o" / "summary.json").read_text())["parts"]) == known
    assert main([*place, "--only", "second"]) == 0
    assert "[1/1] second: unchanged, kept" in capsys.readouterr().err


def test_the_help_names_the_long_parts():
    (text,) = {fields_help(Command)["all"]}
    assert text.endswith(": " + ", ".join(part.name for part in PARTS if part.long) + ".")


def test_the_times_that_are_promised_are_those_of_the_committed_run():
    """A user's own run, which may be on a slower machine, changes the file in the working tree."""
    path = "paper_figures/summary.json"
    committed = subprocess.run(
        ["git", "show", f"HEAD:{path}"], cwd=sources.ROOT, capture_output=True, check=False
    )
    text = (sources.ROOT / path).read_bytes() if committed.returncode else committed.stdout
    measured = json.loads(text)["wall_time_seconds"]
    assert {part.name for part in PARTS if not part.long} <= set(measured)
    for part in PARTS:
        if part.name in measured:
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


def test_a_figure_needs_its_numbers_and_a_claim_its_name(tmp_path):
    context = Context("part", False, tmp_path, tmp_path)
    from analysis.style import panels

    figure, _ = panels(1, 1)
    with pytest.raises(ValueError, match="numbers"):
        context.figure("f", figure, shows="nothing")
    with pytest.raises(ValueError, match="C1"):
        context.claim("C10", "holds", "", effect=1.0, interval=(0.0, 2.0), seeds=5)
    with pytest.raises(ValueError, match="not distinguishable here"):
        context.claim("C1", "holds in part", "", effect=1.0, interval=(0.0, 2.0), seeds=5)  # pyright: ignore
    with pytest.raises(ValueError, match="C1"):
        context.evidence("C10", "")
    context.figure("f", figure, shows="x", numbers={"a": np.float32(1.5)})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": 1.5}
    with pytest.raises(ValueError, match="twice"):
        context.figure("f", figure, shows="x", numbers={})


def test_a_figure_that_is_unfit_for_print_is_told_and_kept(make, settings):
    tiny = GOOD.replace("axis.plot", "axis.text(0, 0, 'tiny', fontsize=4); axis.plot")
    parts_ = [make("first", tiny, slope=1.0), make("second", GOOD, slope=2.0)]
    for _ in range(2):  # a part that stands says so again
        failed, out = run(parts_, settings)
        assert failed == 0
        assert "[1/2] first: figure 'first' has 'tiny' in 4 pt, expected 7" in out
        assert "second: figure" not in out


def test_the_same_numbers_give_the_same_files(tmp_path):
    from analysis.style import panels

    written = []
    for name in ("one", "two"):
        context = Context("part", False, tmp_path / name, tmp_path)
        figure, axis = panels(1, 1)
        axis.plot([0, 1], [0, 1], label="θ")
        context.figure("f", figure, shows="x", rows={"x": [1.0, 2.0], "y": np.array([0.1, np.inf])})
        written.append(context.figures[0]["files"])
    assert written[0] == written[1]


def decided(claim, verdict, effect):
    decision = f"{claim!r}, {verdict!r}, 'a | b', effect={effect}, interval=(1.0, 2.0), seeds=5"
    return f"""
    def run(context):
        context.claim({decision})
        return {{{{"{{name}}_ran": 1}}}}
"""


def test_one_part_decides_a_claim_and_others_bear_on_it(make, settings):
    parts = [make("first", PLAIN, slope=2), make("second", decided("C7", "fails", 1.5))]
    assert run(parts, settings)[0] == 0
    assert summary(settings)["claims"] == {
        "C7": {
            "verdict": "fails",
            "effect": 1.5,
            "interval": [1.0, 2.0],
            "seeds": 5,
            "evidence": "a | b (second) slope 2 (first)",
        }
    }
    page = (settings.output / "README.md").read_text()
    assert "| **fails** | 1.5 | 1 to 2 | 5 | a \\| b (second) slope 2 (first) |" in page
    assert page.count("has not run") == len(CLAIMS) - 1


def test_two_parts_may_not_decide_the_same_claim(make, settings):
    both = [make(name, decided("C7", "fails", 1.5)) for name in ("first", "second")]
    failed, said = run(both, settings)
    assert failed == 1
    assert "both decide the claim C7" in said


def test_a_run_without_the_part_that_decides_keeps_its_verdict(make, settings):
    parts = [make("first", PLAIN, slope=1), make("second", decided("C4", "holds", 1.5))]
    run(parts, settings)
    parts[0] = make("first", PLAIN, slope=3)
    run(parts, settings, only=["first"])
    claims = summary(settings)["claims"]
    assert claims["C4"]["verdict"] == "holds"
    assert claims["C7"]["evidence"] == "slope 3 (first)"


def test_words_of_earlier_versions_are_evidence_alone(make, settings):
    parts = [make("first", PLAIN, slope=1), make("second", decided("C7", "holds", 1.5))]
    run(parts, settings, only=["second"])
    state = summary(settings)
    state["parts"]["old"] = state["parts"]["second"] | {
        "claims": [{"claim": "C2", "verdict": "holds in part", "evidence": "one seed"}]
    }
    (settings.output / "summary.json").write_text(json.dumps(state))
    run([*parts, make("old", PLAIN, slope=1)], settings, only=["first"])
    assert summary(settings)["claims"]["C2"] == {"evidence": "one seed (old)"}
