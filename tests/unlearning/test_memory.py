"""The memory of a run, refused before any work, and its tracing, done once."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from fdiv_jax.nn import room
from fdiv_jax.nn.memory import array_bytes, inner_programs, shapes_of
from fdiv_jax.pipeline import TextToImagePipeline
from fdiv_jax.unlearning import AdversaryConfig, cells_of, memory, sweep, train, unlearn
from fdiv_jax.unlearning.parameters import Network
from fdiv_jax.unlearning.prepare import prepare
from fdiv_jax.unlearning.run import compiled
from fdiv_jax.unlearning.step import make_step
from tests.nn.helpers import of_library

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scarce(monkeypatch):
    """Little memory left, and no drawing."""

    def no_work(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(room, "free_bytes", lambda device=None: 10**5)
    monkeypatch.setattr(TextToImagePipeline, "generate", no_work)


def test_a_run_and_a_sweep_are_refused_before_any_work(pipe, config, scarce, tmp_path):
    message = (
        r"with a batch of 4 needs about .* of memory, 100000 bytes are free; expected a smaller batch_size"
    )
    with pytest.raises(MemoryError, match=f"a run {message}"):
        unlearn(pipe, config(), tmp_path / "run", cache=False)
    with pytest.raises(MemoryError, match=f"2 runs side by side {message}"):
        sweep(pipe, cells_of(config(), ["kl", "squared_hellinger"]), tmp_path / "sweep", cache=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_step_is_traced_once(pipe, config, monkeypatch):
    """The look at the memory is the tracing that the run needs anyway: the batch is foreseen exactly."""
    calls = []
    original = Network.__call__

    def counted(self, *arguments):
        calls.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(Network, "__call__", counted)
    settings = config(steps=1, learning_rate=0.0123, timestep_range=(3, 7))
    prepared = prepare(pipe, settings)
    memory.check_memory([prepared])
    before = len(calls)
    assert before > 0
    unlearn(pipe, settings, cache=False, progress=False)
    assert len(calls) - before == 1  # that of the reference


@pytest.mark.slow
def test_more_of_everything_takes_more(pipe, config):
    def needed(number=1, **changes):
        return memory.training_bytes([prepare(pipe, config(**changes))] * number)

    one = needed()
    assert needed(batch_size=8) > 1.5 * one
    assert needed(batch_size=8, accumulation=2) < needed(batch_size=8)
    assert needed(trainable="full") > one
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = array_bytes(memory.abstract_state(prepare(pipe, config()), key))
    assert needed(3) == one + 2 * state


def stored(prepared):
    """Bytes that XLA stores for a step of 32 samples: (temporary ones, all but the model)."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, batch = memory.abstract_state(prepared, key), memory.abstract_batch(prepared, 32)
    step = compiled(prepared.plan, None, None)[2]
    told = (
        step.lower(state, shapes_of(prepared.frozen), batch, batch.latents, key).compile().memory_analysis()
    )
    true = told.temp_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
    return told.temp_size_in_bytes, true + array_bytes((state, batch, batch.latents))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "variational"},
        {"accumulation": 2, "trainable": "full"},
        {"adversary": AdversaryConfig(steps=2)},
    ],
)
def test_derivatives_in_loops_and_branches_are_those_of_the_library(pipe, config, changes):
    """What XLA for a CPU counts number by number there, 6 to 390 times as slowly for kernels."""
    prepared = prepare(pipe, config(batch_size=8, **changes))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, batch = memory.abstract_state(prepared, key), memory.abstract_batch(prepared, 8)
    step = make_step(prepared.plan)
    frozen = shapes_of(prepared.frozen)
    program = jax.make_jaxpr(step)(state, frozen, batch, batch.latents, key).jaxpr
    inside = [
        flag
        for equation in program.eqns
        if equation.primitive.name in ("cond", "scan", "while")
        for inner in inner_programs(equation.params)
        for flag in of_library(inner)
    ]
    assert len(inside) > 10
    assert all(inside)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"loss": "variational"}, {"accumulation": 2}])
def test_the_step_as_xla_stores_it(pipe, config, changes):
    """Not of `trainable="full"`: XLA compiles that step for a CPU in minutes, with gigabytes of its own."""
    prepared = prepare(pipe, config(batch_size=32, **changes))
    assert 0.7 < memory.training_bytes([prepared]) / stored(prepared)[1] < 1.7


STEP = """
from fdiv_jax import load_pipeline
from fdiv_jax.unlearning import UnlearningConfig, memory
from fdiv_jax.unlearning.prepare import prepare
from tests.unlearning.test_memory import stored
pipe = load_pipeline("fashion")
for remat in ("none", "blocks"):
    prepared = prepare(pipe, UnlearningConfig(target="sneaker", batch_size=32, retained=(), remat=remat))
    print(memory.training_bytes([prepared]), *stored(prepared))
"""


@pytest.mark.slow
def test_rematerialisation_as_xla_stores_it():
    """In a process of its own, whose XLA orders the work for memory."""
    flags = {"XLA_FLAGS": "--xla_cpu_enable_concurrency_optimized_scheduler=false"}
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", STEP],
        env={**os.environ, **flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (_, plain, _), (foreseen, again, held) = (map(int, line.split()) for line in ran.stdout.splitlines()[-2:])
    assert again < 0.6 * plain
    assert 0.7 < foreseen / held < 1.7


@pytest.fixture
def in_order(monkeypatch):
    """As if XLA ordered the work for memory."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")


@pytest.mark.slow
def test_rematerialised_runs_are_the_same(pipe, config, in_order):
    cells = [prepare(pipe, config(steps=3, remat=remat)) for remat in ("none", "blocks", "full")]
    curves = [train([cell], [None], [[]], progress=False, cache=False)[0].history["loss"] for cell in cells]
    np.testing.assert_allclose(curves[1], curves[0], rtol=2e-5)
    np.testing.assert_allclose(curves[2], curves[0], rtol=2e-5)


def test_rematerialisation_is_foreseen(pipe, config, in_order):
    plain, blocks = (prepare(pipe, config(batch_size=32, remat=remat)) for remat in ("none", "blocks"))
    assert plain.plan != blocks.plan
    assert memory.training_bytes([blocks]) < 0.6 * memory.training_bytes([plain])


def test_rematerialisation_that_saves_nothing_is_left_out(pipe, config, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.warns(UserWarning, match="'blocks' is left out: on a CPU it takes no less memory unless"):
        blocks = prepare(pipe, config(remat="blocks"))
    assert blocks.plan == prepare(pipe, config()).plan
