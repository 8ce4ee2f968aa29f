"""Checks of a generator, and what follows from its derivatives: curvature, kinks, symmetry, reversal."""

import pickle
import threading
import warnings

import numpy as np
import pytest
import sympy

from fdiv_jax.divergences import Divergence, GeneratorError, catalogue, divergence

T = sympy.Symbol("t", positive=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t**2", r"f\(1\) must be 0, got f\(1\) = 1: use f\(t\) - 1, that is t\*\*2 - 1"),
        ("t*log(t) - 2", r"use f\(t\) \+ 2"),
        ("exp(-t)", r"use f\(t\) - exp\(-1\)"),
        ("log(t)", r"not convex: f'' < 0 for t in about \(0, oo\)"),
        ("1 - t**2", "not convex"),
        ("sqrt(t) - 1", "not convex"),
        ("t**3 - 3*t**2 + 2*t", r"not convex: f'' < 0 for t in about \(0, 0\.98"),
        ("tanh(t - 1)**2", r"not convex: f'' < 0 for t in about \(1\.6"),
        ("(t - 1)**2*(t - 2)**2", r"about \(1\.2\d*, 1\.7"),
        ("(t - 1)**2 - 0.01*exp(-1000*(t - 3)**2) + 0.01*exp(-4000)", r"about \(2\.9|about \(3\.0"),
        ("Min(t - 1, 0)", "at t = 1 its slope falls from 1 to 0"),
        ("Abs(t - 1) - 3*Abs(t - 2) + 3", "at t = 2 its slope falls"),
        ("sign(t - 2) + 1 + (t - 1)**2", "jumps at t = 2"),
        ("1/(t - 2)**2 - 1", "pole or a jump near t = 1.9"),
        ("log(t - 1)", "not real"),
        ("sqrt(1 - t)", "not real"),
        ("t - 1", "linear"),
        ("2 - 2*t", "linear"),
        ("log(exp(t)) - 1", "linear"),
        ("0", "does not depend on t"),
        ("t - t", "does not depend on t"),
        ("3", "does not depend on t"),
        ("1/(t - 1)", "not finite at t = 1"),
        ("(t - 1)**2 + 0**erfc(t)", r"it contains 0\*\*erfc\(t\)"),
        ("(t - 1)**2 + (0*t)**(t*log(t) + 3)", r"it contains 0\*\*\(t\*log\(t\) \+ 3\)"),
        ("(t - 1)**2 + Max(-t, 0)**sin(t)", r"it contains 0\*\*sin\(t\)"),
        ("(t - 1)**2 + 0**Abs(t - 3)", r"it contains 0\*\*\(3 - t\)"),
        ("(t - 1)**2 + (sqrt(5 + 2*sqrt(6)) - sqrt(2) - sqrt(3))**cos(t)", r"it contains 0\*\*cos\(t\)"),
    ],
)
def test_refused_with_the_reason(text, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(GeneratorError, match=reason):
            divergence(text)


def test_the_shift_mends_it():
    for text in ("t**2", "exp(-t)", "t*log(t) - 2", "(t + 1)*log(t + 1)"):
        with pytest.raises(GeneratorError) as caught:
            divergence(text)
        mended = str(caught.value).rsplit("that is ", 1)[1]
        assert divergence(mended).generator.subs(T, 1).equals(0)


@pytest.mark.parametrize(
    ("text", "curvature"),
    [
        ("t*log(t) + (t - 1)**2", 3),
        ("sqrt(1 + t**2) - sqrt(2)", sympy.sqrt(2) / 4),
        ("exp(-t) - exp(-1)", sympy.exp(-1)),
        ("0.3*(t - 1)**2", sympy.Rational(3, 5)),
        ("(t - 1)**4", 0),
        ("Abs(t - 1)", sympy.oo),
        ("Abs(t - 1)**1.5", sympy.oo),
        ("((t - 1)**4)**(1/4)", sympy.oo),
        ("Max(t - 2, 0)", 0),
        ("Max(t - 1, 0)**2", 1),  # the mean of both sides, 0 and 2
        ("t**3 - t + Abs(t - 2) - 1", 6),
        ("alpha(sqrt(2))", 1),
    ],
)
def test_curvature_is_exact(text, curvature):
    assert (
        sympy.simplify(divergence(text).curvature - curvature) == 0 or curvature == divergence(text).curvature
    )


def test_table_of_theory():
    table = {
        "kl": (T * sympy.log(T), 1 / T),
        "reverse_kl": (-sympy.log(T), 1 / T**2),
        "jeffreys": ((T - 1) * sympy.log(T), (T + 1) / T**2),
        "squared_hellinger": ((sympy.sqrt(T) - 1) ** 2, T ** sympy.Rational(-3, 2) / 2),
        "pearson_chi2": ((T - 1) ** 2, sympy.Integer(2)),
        "neyman_chi2": ((1 - T) ** 2 / T, 2 / T**3),
        "jensen_shannon": (T * sympy.log(T) - (T + 1) * sympy.log((T + 1) / 2), 1 / (T * (T + 1))),
        "gan": (T * sympy.log(T) - (T + 1) * sympy.log(T + 1) + 2 * sympy.log(2), 1 / (T * (T + 1))),
        "le_cam": ((T - 1) ** 2 / (T + 1), 8 / (T + 1) ** 3),
        "total_variation": (sympy.Abs(T - 1) / 2, sympy.S.Zero),
    }
    assert set(table) == set(catalogue())
    for name, (generator, second) in table.items():
        d = divergence(name)
        assert d.name == name
        assert (d.generator - generator).equals(0), name
        assert sympy.simplify(d.second_derivative - second) == 0, name
        assert sympy.simplify(sympy.diff(d.first_derivative, T) - second) == 0 or name == "total_variation"


def test_alpha_family():
    for text, multiple, name in (("alpha(0.5)", 2, "squared_hellinger"), ("alpha(2)", 0.5, "pearson_chi2")):
        assert (
            sympy.simplify(
                divergence(text).generator - sympy.nsimplify(multiple) * divergence(name).generator
            )
            == 0
        )
    assert sympy.simplify(divergence("alpha(-1)").generator - divergence("neyman_chi2").generator / 2) == 0
    assert divergence("alpha(0)") is divergence("reverse_kl")
    assert divergence("alpha(1.0)") is divergence("kl")
    assert divergence("alpha( 1/2 )") == divergence("alpha(0.5)")
    assert divergence("alpha(1/3)").name == "alpha(1/3)"
    for a in (sympy.Rational(1, 3), sympy.Integer(-3), sympy.pi):
        assert sympy.simplify(divergence(f"alpha({a})").second_derivative - T ** (a - 2)) == 0


def test_kinks():
    assert divergence("Max(t - 2, 0)").kinks == ((2, 1),)
    assert divergence("Abs(t - 1)/2").kinks == ((1, 1),)
    assert divergence("Max(t - 1, 0)**2").is_smooth
    assert divergence("Abs(Abs(t - 1) - 1/2) + 2*Abs(t - 1) - 1/2 + t**2 - 1").kinks == (
        (sympy.Rational(1, 2), 2), (1, 2), (sympy.Rational(3, 2), 2),
    )  # fmt: skip
    assert divergence("Max(t**2 - 2, t, 2*t - 1) - 1").kinks[0][0] == 1
    assert not divergence("total_variation").is_smooth


@pytest.mark.parametrize(
    ("text", "reverse"),
    [("kl", "reverse_kl"), ("neyman_chi2", "pearson_chi2"), ("alpha(3)", "alpha(-2)"),
     ("alpha(0.3)", "alpha(0.7)"),
     ("jeffreys", "jeffreys"), ("exp(-t) - exp(-1)", "t*exp(-1/t) - t*exp(-1)")],
)  # fmt: skip
def test_reversal(text, reverse):
    d = divergence(text).reversed()
    expected = divergence(reverse).generator
    # Up to a (t - 1), which changes no divergence.
    difference = sympy.simplify(sympy.diff(d.generator - expected, T, 2))
    assert difference == 0
    assert sympy.simplify(sympy.diff(d.reversed().generator - divergence(text).generator, T, 2)) == 0


def test_reversal_swaps_the_gaussians(x64):
    # Between Gaussians of one covariance the swap changes nothing: F_f = F_{t f(1/t)}.
    d = divergence("exp(-t) - exp(-1)")
    m = np.array([0.1, 1.0, 9.0])
    np.testing.assert_allclose(d.gaussian_divergence(m), d.reversed().gaussian_divergence(m), rtol=1e-11)


def test_symmetry():
    symmetric = {n for n, d in catalogue().items() if d.is_symmetric}
    assert symmetric == {
        "jeffreys",
        "squared_hellinger",
        "jensen_shannon",
        "gan",
        "le_cam",
        "total_variation",
    }
    assert divergence("sqrt(1 + t**2) - sqrt(2)").is_symmetric  # up to a (t - 1)
    assert not divergence("Max(t - 2, 0)").is_symmetric


def test_an_expression_equal_to_an_entry_takes_its_activation():
    d = divergence("-log(t)")
    assert d.name == "-log(t)"
    assert d.activation_expression == divergence("reverse_kl").activation_expression
    assert (
        divergence("(1 - sqrt(t))**2").conjugate_expression
        == divergence("squared_hellinger").conjugate_expression
    )


def test_identity_hash_copy_repr():
    kl = divergence("kl")
    assert divergence("kl") is kl
    assert divergence(kl) is kl
    assert pickle.loads(pickle.dumps(kl)) == kl
    assert len({kl, divergence("kl"), divergence("t*log(t)")}) == 2
    assert repr(kl) == "Divergence('kl', f = t*log(t))"
    assert "jensen" in repr(divergence("jensen_shannon"))
    with pytest.raises(AttributeError):
        kl.name = "other"
    assert isinstance(kl, Divergence)
    with pytest.raises(TypeError):
        catalogue()["kl"] = kl  # pyright: ignore[reportIndexIssue]


def test_many_threads_at_once():
    text = "t*log(t) + 0.25*(t - 1)**2 + 0.125*Abs(t - 1)"
    found, errors = [], []

    def work():
        try:
            d = divergence(text)
            found.append((d, d.curvature, float(d.gaussian_weight(0.5)), d.slopes))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(found)) == 1
