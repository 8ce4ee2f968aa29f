"""Random text for `divergence`: what leaves it must be a divergence, a ValueError, a TypeError or a
NotImplementedError.

    python -m tests.divergences.fuzz 100000 --seed 0 --facts 25
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback

from fdiv_jax.divergences import Divergence, divergence
from fdiv_jax.divergences._parse import FUNCTIONS

ALLOWED = (ValueError, TypeError, NotImplementedError)
_MANY = ("Max", "max", "Min", "min")
_NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "5",
    "7",
    "0.5",
    "1.5",
    "0.1",
    "1/3",
    "2/7",
    "pi",
    "E",
    "e",
    "sqrt(2)",
    "log(2)",
    "1e-9",
    "1e-30",
    "1e9",
    "1e60",
    "64",
    "0.999",
    "1.0001",
    "12345.678",
    "(-1)",
    "(-2)",
    "1e99",
    "0.1234567890123456789",
]
_CONVEX = [
    "t*log(t)",
    "-log(t)",
    "(t-1)**2",
    "(sqrt(t)-1)**2",
    "1/t",
    "exp(-t)",
    "log(cosh(t-1))",
    "log(1+exp(t))",
    "t**1.5",
    "-sqrt(t)",
    "abs(t-1)",
    "max(t-2,0)",
    "(t-1)**2/(t+1)",
    "t*atan(t)",
    "sqrt(1+t**2)",
    "-log(1-exp(-t))",
    "1/(exp(t)-1)",
    "t*log(t)-(t+1)*log((t+1)/2)",
    "erfc(t)",
    "1/sinh(t)",
    "-log(tanh(t))",
    "log(t)**2*t",
    "t/(exp(1/t)-1)",
    "max(1-t,0)**2",
    "-atan(t)+t**2",
    "exp(abs(log(t))**1.5)",
    "cosh(log(t))",
    "abs(log(t))",
    "-tanh(t)",
    "t**-0.3",
    "-asinh(t)",
    "1/log(1+t)",
    "-log(log(1+t))",
    "t*exp(-1/t)",
    "cosh(t)/sinh(t)",
]
_PIECES = list("t+-*/()., 0123456789eE") + [
    "**",
    "log",
    "exp",
    "max(",
    "t",
    "Abs(",
    "sqrt(",
    "1e",
    "__",
    "\\",
]


def tree(rng: random.Random, depth: int) -> str:
    """A random expression of the grammar."""
    if depth == 0 or rng.random() < 0.12:
        return "t" if rng.random() < 0.6 else rng.choice(_NUMBERS)
    kind = rng.random()
    if kind < 0.45:
        return f"({tree(rng, depth - 1)}{rng.choice('+-*/+-*')}{tree(rng, depth - 1)})"
    if kind < 0.6:
        power = rng.choice(
            ["2", "3", "-1", "0.5", "-2", "1.5", "1/3", "40", "64", "-0.5", tree(rng, depth - 1)]
        )
        return f"({tree(rng, depth - 1)})**({power})"
    name = rng.choice(sorted(FUNCTIONS))
    count = rng.randint(2, 4) if name in _MANY else 1
    return f"{name}({','.join(tree(rng, depth - 1) for _ in range(count))})"


def _at_one(text: str) -> str:
    words: list[str] = []
    word = ""
    for character in f"{text} ":
        if character.isalnum() or character == "_":
            word += character
            continue
        words += ["1" if word == "t" else word, character]
        word = ""
    return "".join(words).strip()


def convex(rng: random.Random) -> str:
    """A sum of convex terms, zero at 1: mostly accepted."""
    terms = [
        f"{rng.choice(['', '2*', '0.3*', '1e-6*', '1e6*'])}({rng.choice(_CONVEX)})"
        for _ in range(rng.randint(1, 3))
    ]
    if rng.random() < 0.3:
        terms.append(f"{rng.choice(['0.01', '-0.02', '1e-5'])}*({tree(rng, 2)})")
    text = "+".join(terms)
    return f"{text}-({_at_one(text)})"


def mutated(rng: random.Random) -> str:
    """An expression with characters lost, doubled, swapped or put in."""
    text = list(convex(rng) if rng.random() < 0.5 else tree(rng, 3))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        action = rng.random()
        if action < 0.35 and text:
            del text[min(place, len(text) - 1)]
        elif action < 0.7:
            text.insert(place, rng.choice(_PIECES))
        elif action < 0.85:
            text[place:] = []
        else:
            text[place:place] = text[place : place + rng.randint(1, 9)]
    return "".join(text)


def strange(rng: random.Random) -> str:
    """Random bytes and characters, deep nesting, huge numbers."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randint(0, 60)).decode("latin-1")
    if kind == 1:
        return "".join(
            chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x2500), 0x1F600]))
            for _ in range(rng.randint(0, 40))
        )
    if kind == 2:
        name = rng.choice(sorted(FUNCTIONS))
        depth = rng.randint(1, 60)
        return f"{name}(" * depth + "t" + ")" * depth + rng.choice(["", "-1", "+t**2", "-t"])
    if kind == 3:
        return "**".join(
            rng.choice(["t", "2", "9", "1.0000001", "64", "(t+1)"]) for _ in range(rng.randint(2, 9))
        )
    if kind == 4:
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 40)))
        return f"{digits}e{rng.choice('+-')}{rng.randint(0, 400)}*(t-1)**{rng.randint(0, 99)}"
    if kind == 5:
        return "".join(rng.choice(_PIECES) for _ in range(rng.randint(0, 30)))
    return f"alpha({rng.choice([*_NUMBERS, tree(rng, 1)])})"


def text(rng: random.Random) -> str:
    """One random text of any kind."""
    return rng.choice([convex, convex, mutated, strange, lambda r: tree(r, r.randint(1, 5))])(rng)


def facts_of(d: Divergence) -> None:
    """Everything symbolic that `explore` shows of an accepted expression."""
    from fdiv_jax import explore as facts

    facts.generator_facts(d)
    facts.conjugate_facts(d)
    str(d.closed_form)


def examine(given: str, facts: bool = True) -> tuple[str, float]:
    """(what came, processor seconds to make it); any other exception goes through.

    facts: whether everything symbolic is worked out as well, which takes longer than to make the divergence.
    """
    start = time.process_time()
    try:
        d = divergence(given)
    except ALLOWED as error:
        if "\n" in str(error):
            raise AssertionError(f"an error of several lines for {given!r}") from error
        return type(error).__name__, time.process_time() - start
    made = time.process_time() - start
    if facts:
        facts_of(d)
    return "accepted", made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--facts", type=int, default=1, help="everything symbolic for one text of so many")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    times, outcomes, bad = [], {}, 0
    for i in range(options.count):
        given = text(rng)
        start = time.process_time()
        try:
            outcome, seconds = examine(given, facts=i % options.facts == 0)
        except Exception:
            outcome, seconds, bad = "other", time.process_time() - start, bad + 1
            print(f"!! {given!r}\n{traceback.format_exc(limit=-3)}", flush=True)
        whole = time.process_time() - start
        if whole > 10:  # no error, and none may take so long
            bad += 1
            print(f"slow: {seconds:.1f} s to make, {whole:.1f} s in all: {given!r}", flush=True)
        times.append((seconds, given))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if (i + 1) % 1000 == 0:
            ordered = sorted(times)
            print(f"{i + 1}: {outcomes}, median {ordered[len(ordered) // 2][0]:.4f} s, "
                  f"worst {ordered[-1][0]:.2f} s: {ordered[-1][1]!r}", flush=True)  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
