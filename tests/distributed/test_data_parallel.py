"""One function on one device and on several that share the batch: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdiv_jax.distributed import DataParallel, SingleDevice

BATCH = {
    "x": np.arange(24, dtype=np.float32).reshape(8, 3),
    "position": np.arange(8, dtype=np.int32),
}


def make(axis):
    """A step: what all devices hold moves by the mean over the batch; a figure of every sample is given."""

    def step(state, batch, key):
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(batch["position"])
        figures = noise + batch["x"].sum(1)
        mean = jnp.mean(figures)
        if axis is not None:
            mean = jax.lax.pmean(mean, axis)
        return {"w": state["w"] + mean}, {"loss": mean, "m": figures}

    return step


def run(runner):
    state = runner.replicate({"w": np.ones(2, np.float32)})
    state, metrics = runner.compile(make)(state, runner.shard(BATCH), jax.random.key(3))
    return jax.device_get(runner.fetch(state)), runner.metrics(metrics)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_result_does_not_depend_on_the_devices(count):
    devices = jax.local_devices()[:count]
    assert len(devices) == count
    (one, figures), (many, shared) = run(SingleDevice()), run(DataParallel(devices))
    assert shared["loss"].shape == ()
    np.testing.assert_array_equal(shared["m"], figures["m"])  # in the order of the batch
    np.testing.assert_allclose(shared["loss"], figures["loss"], rtol=1e-6)
    np.testing.assert_allclose(many["w"], one["w"], rtol=1e-6)
    np.testing.assert_allclose(one["w"], 1 + np.mean(figures["m"]), rtol=1e-6)


def test_a_batch_is_shared_out_in_order():
    shared = DataParallel(jax.local_devices()[:4]).shard(BATCH)
    assert shared["x"].shape == (4, 2, 3)
    np.testing.assert_array_equal(np.concatenate(shared["x"]), BATCH["x"])
    with pytest.raises(ValueError, match="batch of 8 for 3 devices; expected a multiple of them"):
        DataParallel(jax.local_devices()[:3]).shard(BATCH)


def test_every_device_holds_the_same():
    placed = DataParallel(jax.local_devices()[:4]).replicate({"w": np.arange(3.0, dtype=np.float32)})
    assert len(placed["w"].sharding.device_set) == 4
    np.testing.assert_array_equal(placed["w"], np.broadcast_to(np.arange(3.0), (4, 3)))


def test_the_state_may_be_given_up():
    runner = SingleDevice()
    state = runner.replicate({"w": np.ones(2, np.float32)})
    after, _ = runner.compile(make, donate=True)(state, BATCH, jax.random.key(0))
    assert state["w"].is_deleted()
    assert not after["w"].is_deleted()


@pytest.mark.parametrize("count", [1, 2])
def test_a_function_is_compiled_once(count):
    """What was placed, and what a step gives back, are the same to the compiler."""
    runner = SingleDevice() if count == 1 else DataParallel(jax.local_devices()[:count])
    traces = []

    def counted(axis):
        step = make(axis)
        return lambda *arguments: (traces.append(1), step(*arguments))[1]

    function = runner.compile(counted)
    state = runner.replicate({"w": np.ones(2, np.float32)})
    for number in range(3):
        state, _ = function(state, runner.shard(BATCH), jax.random.key(number))
    assert len(traces) == 1


def test_virtual_devices_run_one_program_at_a_time():
    """A call has ended when it returns: a program beside one that averages can wait for ever."""
    runner = DataParallel(jax.local_devices()[:2])

    def long(axis):
        def step(state, batch, key):
            w = jax.lax.fori_loop(0, 200, lambda _, w: jnp.cos(w @ w), state["w"])
            return jax.lax.pmean(w, axis)

        return step

    function = runner.compile(long)
    state = runner.replicate({"w": np.ones((256, 256), np.float32)})
    for number in range(3):
        assert function(state, runner.shard(BATCH), jax.random.key(number)).is_ready()
