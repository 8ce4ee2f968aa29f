"""The checks of the annotations that the suite runs with: of arrays by jaxtyping, of the rest by beartype.

In the fast tests of `FOLDERS` every function of `MODULES` is checked at every call: its arguments and what it
returns.
Constructors are left alone: classes that are pytrees are built around anything (gradients, shardings, None),
and configurations check their own fields, with messages for people. A test that passes a wrong type on
purpose, to see such a message, is marked `wrong_types` and runs without the checks, as users do.
"""

from typing import Any, Self

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

MODULES = (
    "fdiv_jax.nn",
    "fdiv_jax.diffusion",
    "fdiv_jax.pipeline.programs",
    "fdiv_jax.unlearning.batch",
    "fdiv_jax.unlearning.comparison",
    "fdiv_jax.unlearning.critic",
    "fdiv_jax.unlearning.held_out",
    "fdiv_jax.unlearning.losses",
    "fdiv_jax.unlearning.parameters",
    "fdiv_jax.unlearning.preservation",
    "fdiv_jax.unlearning.state",
    "fdiv_jax.unlearning.step",
    "fdiv_jax.unlearning.timesteps",
    "fdiv_jax.unlearning.trainable",
)

FOLDERS = ("diffusion", "nn", "unlearning", "tests")

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand for a float


def checked(function):
    """The function with its annotations checked; a constructor unchanged."""
    if function.__name__ == "__init__":
        return function
    hints = function.__annotations__
    # beartype can check Self on whole classes only
    hints.update({name: Any for name, hint in hints.items() if hint in (Self, "Self")})
    return _check(function)


def wanted(test):
    """Whether annotations are checked while a test runs."""
    marked = any(test.get_closest_marker(name) for name in ("slow", "wrong_types"))
    return test.path.parent.name in FOLDERS and not marked


def install():
    """Check the modules that are imported from now on."""
    install_import_hook(MODULES, "tests.typechecks.checked")
