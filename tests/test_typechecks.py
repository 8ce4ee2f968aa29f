"""The annotations are checked while the tests run, and only then."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from fdiv_jax import arrays
from fdiv_jax.diffusion import NoiseSchedule
from fdiv_jax.nn.attention import dot_product_attention
from fdiv_jax.nn.resnet import nearest_resize
from fdiv_jax.unlearning.preservation import masked_squared_error
from fdiv_jax.unlearning.timesteps import TimestepRange, draw_noise
from tests import typechecks

LATENTS = jnp.zeros((2, 4, 4, 3))
MASK = jnp.ones((2, 4, 4))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: masked_squared_error(LATENTS, LATENTS, MASK[0]), "mask"),  # a rank that would broadcast
        (lambda: masked_squared_error(LATENTS, LATENTS[:1], MASK), "goal"),  # a size that would broadcast
        (
            lambda: masked_squared_error(LATENTS, LATENTS.astype(int), MASK),
            "goal",
        ),  # would be cast
        (lambda: nearest_resize(LATENTS[0], (2, 2)), "x"),
        (lambda: nearest_resize(LATENTS, (2, 2, 2)), "size"),  # no array: beartype's part
        (lambda: NoiseSchedule((0.1, 0.2)).reverse_variance(jnp.array([0.0, 1.0])), "timesteps"),
        (lambda: draw_noise(jax.random.key(0), MASK, (3,), TimestepRange(0, 9)), "position"),
        (lambda: dot_product_attention(*(jnp.zeros((2, n, 1, 4)) for n in (3, 5, 6))), "value"),
    ],
)
def test_a_wrong_axis_kind_or_type_is_an_error(call, told):
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{told}'"):
        call()


def test_what_a_function_returns_is_checked_too():
    @jaxtyping.jaxtyped(typechecker=typechecks.checked)
    def loss(x: arrays.Latents) -> arrays.Scalar:
        return x.mean(axis=(1, 2, 3))

    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        loss(LATENTS)


def test_traced_arrays_are_checked_as_others():
    with pytest.raises(jaxtyping.TypeCheckError, match="'mask'"):
        jax.eval_shape(masked_squared_error, LATENTS, LATENTS, MASK[0])


@pytest.mark.wrong_types
def test_a_marked_test_runs_as_users_do():
    assert masked_squared_error(LATENTS, LATENTS, MASK[:1]) == 0
    with pytest.raises(TypeError, match="timesteps must be integers"):
        NoiseSchedule((0.1, 0.2)).reverse_variance(jnp.array([0.0, 1.0]))


@pytest.mark.parametrize("name", typechecks.MODULES)
def test_every_module_named_is_checked(name):
    """Each has functions, or is a package that has, and all of them went through the checker."""
    module = importlib.import_module(name)
    own = [f for f in vars(module).values() if inspect.isfunction(f) and f.__module__.startswith(name)]
    classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__.startswith(name)]
    own += [f for c in classes for f in vars(c).values() if inspect.isfunction(f) and f.__name__[0] != "_"]
    assert own or classes
    assert all(any("jaxtyping/_decorator.py" in place for place in places_of(f)) for f in own), own


def places_of(function):
    """The files that a function, and what it wraps, are written in."""
    while function is not None:
        yield function.__code__.co_filename if inspect.isfunction(function) else ""
        function = getattr(function, "__wrapped__", None)


def test_every_name_says_what_it_is():
    lines = Path(arrays.__file__).read_text().splitlines()
    for name in set(arrays.__all__) - {"PyTree"}:
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
        assert lines[place + 1].startswith('"""'), f"{name} is not explained"


@pytest.mark.slow
def test_the_library_runs_without_the_checker():
    script = (
        "import sys; sys.modules['beartype'] = None\n"
        "import jax.numpy as jnp, fdiv_jax.unlearning, fdiv_jax.cli\n"
        "from fdiv_jax.unlearning.preservation import masked_squared_error as error\n"
        "x = jnp.zeros((2, 4, 4, 3)); print(float(error(x, x, jnp.ones((1, 4, 4)))))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stdout.split() == ["0.0"], done.stderr
