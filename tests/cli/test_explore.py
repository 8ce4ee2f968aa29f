"""`explore` and `divergences`: what they print, draw and refuse."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fdiv_jax import cli
from fdiv_jax.divergences import catalogue, divergence
from fdiv_jax.explore import gaussian_facts
from fdiv_jax.explore.pictures import title
from fdiv_jax.theory import game_rate
from tests.divergences.oracles import quickly


def run_json(capsys, *arguments):
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_explore_shows_everything(capsys):
    assert cli.main(["explore", "(t - 1)**2/(t + 1)"]) == 0
    out = capsys.readouterr().out
    for piece in ("f'(t)", "f''(t)", "f''(1)", "f*(s)", "-s - 4*sqrt(1 - s) + 4", "(-oo, 1]", "1 - exp(-v)",
                  "w_f(m)", "quadrature", "q/k", "kl", "critically damped"):  # fmt: skip
        assert piece in out


def test_explore_json(capsys):
    facts = run_json(capsys, "explore", "squared_hellinger")
    assert facts["curvature"] == {"exact": "1/2", "value": 0.5}
    assert facts["conjugate"][0] == {"formula": "s/(1 - s)", "where": "s < 1"}
    assert facts["gaussian"]["closed_form"] == "2 - 2*exp(-m/8)"
    for row in facts["gaussian"]["table"]:
        assert row["weight"] == pytest.approx(np.exp(-row["m"] / 8) / 2, rel=1e-12)
    for row in facts["game"]["rates"]:
        for key, activated in (("direct", False), ("activated", True)):
            rate = game_rate(
                divergence("squared_hellinger"), damping=row["q_over_k"], coupling=1.0, activation=activated
            )
            assert row[key] == pytest.approx(rate)
    assert facts["game"]["critically_damped_at"] == 1.0
    # Small curvature is fastest where damping is weak.
    assert facts["game"]["fastest_here"][0]["from"] == 0


def test_explore_without_a_linear_rate(capsys):
    assert "kink" in run_json(capsys, "explore", "total_variation")["game"]["note"]
    facts = run_json(capsys, "explore", "(t - 1)**4")
    assert "f''(1) = 0" in facts["game"]["note"]
    note = run_json(capsys, "explore", "abs(t - 1)**1.5")["game"]["note"]
    assert "f''(1) is infinite" in note
    assert "kink" not in note
    assert facts["conjugate_is_numeric"] in (True, False)


def test_explore_reads_an_expression_that_begins_with_a_minus(capsys):
    assert run_json(capsys, "explore", "-log(t)")["f"] == "-log(t)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t**2", "f(1) must be 0"),
        ("hellinger", "did you mean 'squared_hellinger'?"),
        ("log(t)", "not convex"),
        ("x*log(x)", "only variable is t"),
        ("exp(t) - E*t", "infinite"),
        ("__import__('os').system('true')", "allowed are"),
        ("", "empty"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(text, reason, capsys):
    assert cli.main(["explore", text]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert reason in err


@pytest.mark.parametrize("text", ["jensen_shannon", pytest.param("Max(t - 2, 0)", marks=pytest.mark.slow)])
def test_plot(text, tmp_path, capsys):
    target = tmp_path / "picture.png"
    assert cli.main(["explore", text, "--plot", str(target)]) == 0
    with Image.open(target) as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


@pytest.mark.slow
def test_what_quadrature_refuses_has_all_the_rest(tmp_path, capsys):
    text, target = "t**2 - 1 + sin(t)/100 - sin(1)/100", tmp_path / "picture.png"
    assert cli.main(["explore", text, "--plot", str(target)]) == 0
    out = capsys.readouterr().out
    assert "no table: f'' rises, falls or oscillates too fast" in out
    assert "critically damped at q/k = 2 f''(1) = 3.983" in out
    assert target.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Max(1 - t, 0)**2", "f is linear beyond t = 1, so"),
        ("(t - 1)**4", "f''(1) = 0, the divergence is flat"),
    ],
)
def test_where_there_is_no_game_the_reason_is_told(text, reason, tmp_path, capsys):
    assert cli.main(["explore", text, "--plot", str(tmp_path / "picture.png")]) == 0
    assert reason in capsys.readouterr().out
    assert (tmp_path / "picture.png").exists()


def test_plot_refuses_before_it_works(tmp_path, capsys):
    assert cli.main(["explore", "kl", "--plot", str(tmp_path / "picture.txt")]) == 2
    assert "--plot must end in" in capsys.readouterr().err
    assert cli.main(["explore", "kl", "--plot", str(tmp_path / "no" / "picture.png")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_divergences_lists_the_catalogue(capsys):
    assert cli.main(["divergences"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in catalogue())
    entries = run_json(capsys, "divergences")
    assert [entry["name"] for entry in entries] == list(catalogue())
    assert entries[0]["closed_form"] == "m/2"


def test_explore_starts_quickly_and_without_flax():
    script = (
        "import sys, time\nfrom fdiv_jax.cli import main\nmain(['explore', 't*log(t)'])\n"
        "print(time.process_time(), *[m for m in ('flax', 'torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.splitlines()[-1].split()
    assert not loaded
    assert float(seconds) < 4  # processor time of all threads; about 1.7 on an idle machine


def test_explore_tells_the_tails_the_noise_and_the_nearest(capsys):
    """squared_hellinger: w = e^(-m/8)/2, so w sqrt(m) is largest at m = 4, and the noise is e^(m/4) - 1."""
    facts = run_json(capsys, "explore", "squared_hellinger")["gaussian"]
    assert facts["tails"]["value_at_zero"] == facts["tails"]["slope_at_infinity"] == "1"
    assert facts["tails"]["bounded_by"] == "2"
    assert facts["tails"]["growth_rate"] == -0.125
    assert facts["tails"]["class"] == "robust"
    assert facts["tails"]["largest_pull"]["m"] == pytest.approx(4, rel=1e-6)
    assert facts["tails"]["largest_pull"]["pull"] == pytest.approx(np.exp(-0.5), rel=1e-12)
    for row in facts["table"]:
        assert row["divergence"] == pytest.approx(2 - 2 * np.exp(-row["m"] / 8), rel=1e-11)
        assert row["noise_p"] == pytest.approx(np.expm1(row["m"] / 4), rel=1e-10)
        assert row["noise_q"] == pytest.approx(np.expm1(row["m"] / 4), rel=1e-10)
    assert facts["step"]["at_minimum"] == 4
    assert facts["step"]["on_the_way"] == pytest.approx(4)
    near = facts["nearest"][0]
    assert near["name"] in ("jensen_shannon", "gan")
    assert 0.4 < near["distance"] < 0.6


@pytest.mark.parametrize(
    ("text", "rate", "word", "pull"),
    [
        ("kl", 0, "neutral", None),
        ("alpha(3)", 3, "tail-seeking", None),
        ("neyman_chi2", 1, "tail-seeking", None),
        ("le_cam", -0.125, "robust", "a number"),
        ("total_variation", -0.125, "robust", {"m": 0.0, "pull": pytest.approx(1 / np.sqrt(2 * np.pi))}),
    ],
)
def test_the_class_of_the_tails(text, rate, word, pull):
    """w = e^(a (a - 1) m/2) for alpha(a); that of total_variation is e^(-m/8)/sqrt(2 pi m)."""
    tails = gaussian_facts(divergence(text))["tails"]
    assert (tails["growth_rate"], tails["class"]) == (rate, word)
    assert tails["largest_pull"] == pull or pull == "a number"


@pytest.mark.parametrize(
    "text", quickly(["jensen_shannon", "abs(t - 1)**1.5", "total_variation"], ["jensen_shannon"])
)
def test_values_between_gaussians(text, x64):
    d = divergence(text)
    rows = gaussian_facts(d)["table"]
    exact = np.asarray(d.gaussian_divergence(np.array([row["m"] for row in rows])))
    np.testing.assert_allclose([row["divergence"] for row in rows], exact, rtol=1e-9)


def test_two_generators_side_by_side(capsys, tmp_path):
    pair = run_json(capsys, "explore", "kl", "--against", "squared_hellinger")
    assert (pair["first"]["name"], pair["second"]["name"]) == ("kl", "squared_hellinger")
    assert pair["weight_distance"] == pytest.approx(9 / 8)  # |log e^(-m/8)| at m = 9
    picture = tmp_path / "pair.png"
    assert cli.main(["explore", "kl", "--against", "total_variation", "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "f''(1) is infinite" in out
    assert picture.exists()
    assert cli.main(["explore", "kl", "--against", "hellinger"]) == 2
    assert "did you mean 'squared_hellinger'" in capsys.readouterr().err


def test_the_title_of_the_picture_is_short():
    text = "1/(exp(t) - 1) - 1/(exp(1) - 1)"
    assert title(divergence(text)) == f"{text},   f''(1) = 1.99229"
    assert title(divergence("kl")).endswith("f''(1) = 1")
