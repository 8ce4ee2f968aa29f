"""`divergence(spec)` and `catalogue()`."""

from __future__ import annotations

import difflib
import math
import re
import threading
from dataclasses import replace
from decimal import Decimal, localcontext
from types import MappingProxyType

import sympy

from fdiv_jax.divergences._catalogue import CATALOGUE, FURTHER_NAMES, Entry, alpha_entry
from fdiv_jax.divergences._checks import check_finite_divergence, check_generator
from fdiv_jax.divergences._divergence import Divergence
from fdiv_jax.divergences._evaluate import mp_context, mp_function
from fdiv_jax.divergences._names import Formula
from fdiv_jax.divergences._parse import (
    MAX_LENGTH,
    MAX_MAGNITUDE,
    ExpressionError,
    T,
    check_expression,
    parse_expression,
)
from fdiv_jax.divergences._pieces import Piece, split
from fdiv_jax.divergences._rewrite import tidy, with_reciprocal

_OF_NUMBER = re.compile(r"\s*(alpha|amari_alpha|t_power)\s*\((.*)\)\s*", re.DOTALL)
_OF_GENERATOR = re.compile(
    r"(reversed|dual_csiszar_function|symmetrise|symmetrized_csiszar_function)\s*\((.*)\)", re.DOTALL
)
_WORDS = re.compile(r"[^\W\d]\w+(?:[ -]\w+)*")
_MAX_ALPHA = 64
_CACHE: dict[tuple[object, ...], Divergence] = {}
_LOCK = threading.Lock()
_MAX_CACHE = 512


def divergence(spec: str | sympy.Expr | Divergence, *, allow_infinite: bool = False) -> Divergence:
    """The f-divergence of a name or of a generator.

    Args:
      spec: a catalogue name ("kl"), "alpha(a)" with a real number a, an expression in t ("t*log(t)"), or
        a sympy expression in a symbol named t. Decimals are read exactly: 0.1 is 1/10. "reversed(...)" and
        "symmetrise(...)" take any of these but sympy expressions. The names of TensorFlow Probability's
        Csiszar functions (tfp.vi) are read as well: "arithmetic_geometric", "t_power(0.5)" and so on.
      allow_infinite: accept a generator such as exp(t) - E*t whose divergence between Gaussians is
        infinite; its conjugate and curvature exist, and its gaussian_* methods raise.

    Returns:
      The divergence; the same object for the same spec.

    Raises:
      ValueError: unknown name, unreadable or hostile text, other symbols than t, f(1) != 0 (with the
      shift that
        mends it), not real, not convex (with the place), linear, or infinite between Gaussians.
      TypeError: for anything else than a string, a sympy expression or a Divergence.

    >>> divergence("alpha(0.5)").curvature
    1
    >>> divergence("t**2 - 1").gaussian_divergence(0.0).item()
    0.0
    >>> divergence("t**2")
    Traceback (most recent call last):
      ...
    fdiv_jax.divergences._checks.GeneratorError: f(1) must be 0, got f(1) = 1: use f(t) - 1, that is t**2 - 1
    """
    if isinstance(spec, Divergence):
        return spec
    if not isinstance(spec, (str, sympy.Basic)):
        raise TypeError(
            f"expected a name, an expression in t or a sympy expression, got {type(spec).__name__}"
        )
    key = (spec, allow_infinite)
    known = _CACHE.get(key)
    if known is not None:
        return known
    # Outside the lock: a thread that asks for another divergence never waits for this one.
    made = _from_text(spec, allow_infinite) if isinstance(spec, str) else _from_sympy(spec, allow_infinite)
    with _LOCK:
        if key not in _CACHE and len(_CACHE) >= _MAX_CACHE:
            _CACHE.pop(next(iter(_CACHE)))
        return _CACHE.setdefault(key, made)


def catalogue() -> MappingProxyType[str, Divergence]:
    """Every named divergence, by name; the family alpha(a) is reached through `divergence`.

    >>> "kl" in catalogue()
    True
    """
    return MappingProxyType({name: divergence(name) for name in CATALOGUE})


def _named(name: str, entry: Entry) -> Divergence:
    return Divergence(name, entry.generator, entry.description, entry)


def _from_text(text: str, allow_infinite: bool) -> Divergence:
    name = text.strip()
    if name in CATALOGUE:
        return _named(name, CATALOGUE[name])
    if name in FURTHER_NAMES:
        return _further(name)
    match = _OF_NUMBER.fullmatch(name)
    if match:
        return _of_number(*match.groups())
    match = _OF_GENERATOR.fullmatch(name)
    if match and len(text) <= MAX_LENGTH:
        made = reversed_of if match[1] in ("reversed", "dual_csiszar_function") else symmetrised
        return made(divergence(match[2], allow_infinite=allow_infinite))
    try:
        expr = parse_expression(text)
    except ExpressionError as error:
        near = _alike(name)
        if name.isidentifier() or near:
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ExpressionError(
                f"unknown divergence {name[:60]!r}; {hint}named are {', '.join(CATALOGUE)} and alpha(a), "
                "or give an expression in t"
            ) from None
        raise error
    return _from_expression(expr, name, allow_infinite)


def _alike(text: str) -> list[str]:
    """The names that the text is close to, as a whole, in one of its words or by its initials."""
    if not _WORDS.fullmatch(text[:60]):
        return []
    words = re.split(r"[ _-]", text.lower())
    typed = "_".join(words)
    whole = difflib.get_close_matches(typed, [*CATALOGUE, *FURTHER_NAMES], n=1, cutoff=0.8)
    if whole:
        return whole
    parts: dict[str, list[str]] = {"alpha": ["alpha(0.5)"]}
    for name in CATALOGUE:
        initials = "".join(word[0] for word in name.split("_"))
        for part in {*name.split("_"), initials if len(initials) > 1 else name}:
            parts.setdefault(part, []).append(name)
    near = [part for word in [typed, *words] for part in difflib.get_close_matches(word, parts, 1, 0.75)]
    return list(dict.fromkeys(name for part in near for name in parts[part]))


def _further(name: str) -> Divergence:
    spec = FURTHER_NAMES[name]
    return divergence(spec) if spec in CATALOGUE else replace(divergence(spec), name=name)


def _of_number(family: str, text: str) -> Divergence:
    try:
        a = parse_expression(text)
    except ExpressionError as error:
        raise ExpressionError(f"{family} takes one real number: {error}") from None
    if a.has(T) or not a.is_real:
        raise ExpressionError(f"{family} takes one real number, got {text.strip()[:60]!r}")
    if family != "t_power":
        return _alpha_of(a)
    if a in (0, 1):
        raise ExpressionError(f"t_power({a}) is a (t - 1): its divergence vanishes identically")
    _check_exponent(family, a)
    sign = -1 if 0 < a < 1 else 1
    return replace(divergence(sign * (T**a - 1)), name=f"t_power({_decimal(a)})")


def _check_exponent(family: str, a: sympy.Expr) -> None:
    if abs(float(a)) > _MAX_ALPHA:
        raise ExpressionError(f"{family}(a) takes -{_MAX_ALPHA} <= a <= {_MAX_ALPHA}, got {float(a):.6g}")


def _alpha_of(a: sympy.Expr) -> Divergence:
    _check_exponent("alpha", a)
    if a == 0:
        return divergence("reverse_kl")
    if a == 1:
        return divergence("kl")
    return _named(f"alpha({_decimal(a)})", alpha_entry(a))


def _decimal(number: sympy.Expr) -> str:
    """0.5 for 1/2, 1/3 for 1/3."""
    if isinstance(number, sympy.Rational):
        p, q = int(number.p), int(number.q)
        rest = q
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            with localcontext(prec=120):
                decimal = (Decimal(p) / Decimal(q)).normalize()
            plain = format(decimal, "f")
            return plain if len(plain) < 30 else str(decimal)
    return str(number)


def _from_sympy(given: Formula, allow_infinite: bool) -> Divergence:
    expr: Formula = given
    if not isinstance(given, sympy.Expr):
        raise TypeError(f"expected a sympy expression in t, got {type(given).__name__}")
    own = {s: T for s in expr.free_symbols if s.name == "t"}
    for number in expr.atoms(sympy.Float):  # as a fraction, or compared, it would be written out
        _, mantissa, exponent, bits = number._mpf_
        if mantissa and abs(exponent + bits) > math.log2(MAX_MAGNITUDE) + 1:
            raise ExpressionError(
                f"a number near 2**{exponent + bits} is too large or too small (limit {MAX_MAGNITUDE:g})"
            )
    expr = expr.subs(own)
    expr = expr.replace(lambda n: isinstance(n, sympy.Float), lambda n: sympy.Rational(str(n)))
    if sympy.count_ops(expr) > 500:
        raise ExpressionError(f"the expression has {sympy.count_ops(expr)} operations, at most 500 are read")
    check_expression(expr)
    return _from_expression(expr, str(expr), allow_infinite)


def _from_expression(expr: sympy.Expr, name: str, allow_infinite: bool) -> Divergence:
    pieces = split(expr)
    check_generator(expr, pieces)
    if not allow_infinite:
        check_finite_divergence(expr, pieces)
    return _assembled(expr, name, pieces)


def _assembled(expr: sympy.Expr, name: str, pieces: tuple[Piece, ...]) -> Divergence:
    known = _recognised(expr)
    return Divergence(name, expr, known.description if known else "", known, pieces)


def _recognised(expr: sympy.Expr) -> Entry | None:
    """The catalogue's entry with exactly this generator: its conjugate and activation are then known."""
    context = mp_context(80)
    # The far points tell t log t from t log t + 1e-80 (t - 1)^64.
    points = [context.mpf(x) for x in ("0.11", "0.6", "1.75", "6", "1e-30", "1e30")]
    f = mp_function(expr, T, context)
    values = [f(t) for t in points]
    for entry in CATALOGUE.values():
        known = mp_function(entry.generator, T, context)
        if all(abs(known(t) - value) < 1e-25 * abs(value) for t, value in zip(points, values, strict=True)):
            return entry
    return None


def reversed_of(d: Divergence) -> Divergence:
    """Generator t f(1/t): the divergence with P and Q swapped."""
    partners = {"kl": "reverse_kl", "pearson_chi2": "neyman_chi2"}
    partners |= {b: a for a, b in partners.items()}
    if d.name in partners:
        return divergence(partners[d.name])
    if d.is_symmetric and d.name in CATALOGUE and d.name != "gan":
        return d
    match = _OF_NUMBER.fullmatch(d.name)
    if match and match[1] == "alpha":
        swapped = 1 - parse_expression(match[2])
        if abs(float(swapped)) <= _MAX_ALPHA:
            return _alpha_of(swapped)
    expr = tidy(T * with_reciprocal(d.generator), T)
    return _assembled(expr, str(expr), split(expr))  # a generator, since f is one


def reversed(d: str | sympy.Expr | Divergence) -> Divergence:
    """The divergence with P and Q swapped, D(Q||P), whose generator is t f(1/t).

    Args:
      d: the divergence, or its name or expression.

    Raises:
      ValueError, TypeError: as `divergence`.

    Source: Liese and Vajda 2006.

    >>> reversed("kl").name, reversed("alpha(3)").name
    ('reverse_kl', 'alpha(-2)')
    """
    return divergence(d).reversed()


def symmetrise(d: str | sympy.Expr | Divergence) -> Divergence:
    """(D(P||Q) + D(Q||P)) / 2, whose generator is (f(t) + t f(1/t)) / 2.

    A symmetric divergence is returned as it is. Between Gaussians of one covariance D(P||Q) = D(Q||P), so
    this changes nothing there.

    Args:
      d: the divergence, or its name or expression.

    Raises:
      ValueError, TypeError: as `divergence`.

    >>> symmetrise("kl").generator
    (t/2 - 1/2)*log(t)
    """
    return symmetrised(divergence(d))


def symmetrised(d: Divergence) -> Divergence:
    if d.is_symmetric:
        return d
    expr = tidy((d.generator + reversed_of(d).generator) / 2, T)
    return _assembled(expr, str(expr), split(expr))
