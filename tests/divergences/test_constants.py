"""Constants close to 0 and to 1 against mpmath, in few digits and in many, and within SymPy's own work."""

import mpmath
import pytest
import sympy

import fdiv_jax as fj
from fdiv_jax.divergences._constants import evaluated

CLOSE = {
    "log(1 + {e})": mpmath.log1p,
    "log(1 - {e})": lambda e: mpmath.log1p(-e),
    "1/log(1 + {e})": lambda e: 1 / mpmath.log1p(e),
    "log(1 + {e})**(-Rational(1, 3))": lambda e: mpmath.log1p(e) ** (-mpmath.mpf(1) / 3),
    "1/(log(1 + {e}) + log(1 + {e})**2)": lambda e: 1 / (mpmath.log1p(e) + mpmath.log1p(e) ** 2),
    "tanh(log(1 + {e}))**(-2)": lambda e: mpmath.tanh(mpmath.log1p(e)) ** -2,
    "log(1/log(1 + {e}))": lambda e: -mpmath.log(mpmath.log1p(e)),
    "atan(1/log(1 + {e}))": lambda e: mpmath.atan(1 / mpmath.log1p(e)),
    "1/log(1 + log(1 + {e}))": lambda e: 1 / mpmath.log1p(mpmath.log1p(e)),
}


@pytest.mark.parametrize("digits", [15, 30, 100])
@pytest.mark.parametrize("power", [8, 20, 30, 300, 900])
@pytest.mark.parametrize("text", CLOSE)
def test_close_to_zero_and_one(text, power, digits):
    constant = sympy.sympify(text.format(e=f"Rational(1, 10**{power})"))
    with mpmath.workdps(3 * power + 2 * digits):
        right = CLOSE[text](mpmath.mpf(10) ** -power)
        found = mpmath.mpf(evaluated(constant, digits)._mpf_)
        assert abs(found / right - 1) < mpmath.mpf(10) ** (3 - digits)
    assert str(constant + 1)  # SymPy evaluates to put the terms in order


def test_the_logarithm_of_one_is_zero_and_the_inverse_of_zero_infinite():
    assert evaluated(sympy.log(1, evaluate=False)) == 0
    assert evaluated(1 / sympy.log(1, evaluate=False)) == sympy.zoo


@pytest.mark.parametrize("digits", [15, 30])
@pytest.mark.parametrize("text", ["exp(-10**9)", "exp(-10**12)", "exp(-exp(30))", "Rational(1, 3)**9999"])
def test_a_small_number_next_to_one_costs_no_more_than_its_digits(text, digits):
    small = sympy.sympify(text)
    with mpmath.workdps(digits + 20):
        found = mpmath.mpf(evaluated(sympy.log(1 + small), digits)._mpf_)
        right = eval(text, {"exp": mpmath.exp, "Rational": lambda p, q: mpmath.mpf(p) / q})
        assert abs(found / right - 1) < mpmath.mpf(10) ** (3 - digits)


@pytest.mark.parametrize(
    "text",
    ["sin(2)**2 + cos(2)**2", "(sqrt(2) - 1)*(sqrt(2) + 1)", "erf(10**5)", "cos(Rational(1, 10**900))"],
)
def test_noise_next_to_one_is_no_number(text):
    one = sympy.sympify(text)
    assert evaluated(sympy.log(one), 15) == 0
    assert evaluated(1 / sympy.log(one), 15) == sympy.zoo


@pytest.mark.parametrize(
    "text", ["pi**cosh(10**120)", "exp(exp(exp(100)))", "sqrt(2)**exp(exp(exp(10)))", "1/exp(exp(exp(100)))"]
)
def test_towers_without_end_are_no_number(text):
    assert evaluated(sympy.sympify(text)) == sympy.nan


def test_towers_with_an_end_are():
    with mpmath.workdps(600):
        for text, right in (
            ("exp(exp(1000))", mpmath.exp(mpmath.exp(1000))),
            ("exp(-exp(99))", mpmath.exp(-mpmath.exp(99))),
            ("pi**pi**pi", mpmath.pi**mpmath.pi**mpmath.pi),
        ):
            found = mpmath.mpf(evaluated(sympy.sympify(text))._mpf_)
            assert abs(found / right - 1) < mpmath.mpf(10) ** -25


@pytest.mark.parametrize(
    ("step", "start", "depth"),
    [
        ("exp(-x)", "1/3", 30),
        ("log(1 + x)", "1/1000000000", 30),
        ("exp(-sinh(x))", "1/3", 15),
        ("2**(-x)", "1/3", 30),
        ("log(1 + x)**(-2) - 1", "3", 12),
    ],
)
def test_the_time_of_nested_functions_is_not_exponential(step, start, depth):
    """Without a memory of what was evaluated these take hours."""
    found, x = sympy.Rational(start), sympy.Symbol("x")
    with mpmath.workdps(60):
        right = mpmath.mpf(found.p) / found.q
        for _ in range(depth):
            found = sympy.sympify(step, locals={"x": x}).subs(x, found)
            right = eval(step, {"exp": mpmath.exp, "log": mpmath.log, "sinh": mpmath.sinh, "x": right})
        assert abs(mpmath.mpf(evaluated(found)._mpf_) / right - 1) < mpmath.mpf(10) ** -24


def test_powers_are_written_out_up_to_ten_million_digits():
    three, large = sympy.Integer(3), 10**30
    assert sympy.Integer(-1) ** large == 1
    assert sympy.Rational(2, 3) ** 3000 == sympy.Rational(2**3000, 3**3000)
    assert (three**5_000_000).p.bit_length() > 7_000_000
    third = sympy.Rational(1, 3)
    for power in (lambda: three**large, lambda: three**-large, lambda: sympy.exp(large * sympy.log(third)),
                  lambda: sympy.sqrt(3) ** large, lambda: (3 * sympy.pi) ** large):  # fmt: skip
        with pytest.raises(ValueError, match="more than 10000000 binary digits"):
            power()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("log(t + 1e-30)**(-1) - log2(max(abs(t), 1.6, log2(t)))", r"f\(1\) = 1e\+30"),
        ("1e99 + atan(log1p(1e-30)**(-2))", "does not depend on t"),
        ("(t-1)**2*log(sin(2)**2+cos(2)**2)", "is linear"),
        ("(t-1)**2*log(tanh(1e11))", "is linear"),
        ("(t-1)**2/log(1+exp(-1e10))", "not defined at t = 1"),
    ],
)
def test_errors_with_such_constants_are_those_of_others(text, told):
    with pytest.raises(ValueError, match=told):
        fj.divergence(text)


@pytest.mark.parametrize("power", [20, 40, 90])
def test_a_factor_is_the_number_that_it_is(power):
    divergence = fj.divergence(f"t*log(t)*log1p(1e-{power})*1e{power}")
    assert float(divergence.f(2.0)) == pytest.approx(float(2 * mpmath.log(2)), rel=1e-6)
    assert float(divergence.curvature) == pytest.approx(1.0, rel=1e-6)
