"""One function on one device and on several that share the batch: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fdiv_jax.distributed import DataMesh, DataParallel, ShardedMesh, SingleDevice, devices_of, runner_of

BATCH = {
    "x": np.arange(24, dtype=np.float32).reshape(8, 3),
    "position": np.arange(8, dtype=np.int32),
}
KINDS = (DataParallel, DataMesh, ShardedMesh)


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
    state, metrics = runner.compile(make, step=True)(state, runner.shard(BATCH), jax.random.key(3))
    return jax.device_get(runner.fetch(state)), runner.metrics(metrics)


@pytest.fixture(scope="module")
def alone():
    """The step on one device."""
    return run(SingleDevice())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_result_does_not_depend_on_the_devices(kind, count, alone):
    devices = jax.local_devices()[:count]
    assert len(devices) == count
    (one, figures), (many, shared) = alone, run(kind(devices))
    assert shared["loss"].shape == ()
    np.testing.assert_allclose(shared["m"], figures["m"], rtol=1e-6)  # in the order of the batch
    np.testing.assert_allclose(shared["loss"], figures["loss"], rtol=1e-6)
    np.testing.assert_allclose(many["w"], one["w"], rtol=1e-6)
    np.testing.assert_allclose(one["w"], 1 + np.mean(figures["m"]), rtol=1e-6)


def test_a_batch_is_shared_out_in_order():
    shared = DataParallel(jax.local_devices()[:4]).shard(BATCH)
    assert shared["x"].shape == (4, 2, 3)
    np.testing.assert_array_equal(np.concatenate(shared["x"]), BATCH["x"])
    for kind in (DataMesh, ShardedMesh):
        placed = kind(jax.local_devices()[:4]).shard(BATCH)["x"]
        rows = [np.asarray(shard.data) for shard in placed.addressable_shards]
        np.testing.assert_array_equal(np.stack(rows), shared["x"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_the_devices_do_not_divide_is_refused(kind):
    with pytest.raises(ValueError, match="batch of 8 for 3 devices; expected a multiple of them"):
        kind(jax.local_devices()[:3]).shard(BATCH)


def test_every_device_holds_the_same():
    devices, tree = jax.local_devices()[:4], {"w": np.arange(3.0, dtype=np.float32)}
    placed = DataParallel(devices).replicate(tree)
    assert len(placed["w"].sharding.device_set) == 4
    np.testing.assert_array_equal(placed["w"], np.broadcast_to(np.arange(3.0), (4, 3)))
    placed = DataMesh(devices).replicate({"w": np.zeros((128, 64), np.float32)})
    assert [shard.data.shape for shard in placed["w"].addressable_shards] == [(128, 64)] * 4


@pytest.mark.parametrize(
    ("shape", "share", "spec"),
    [
        ((128, 64), (32, 64), ("fsdp",)),
        ((64, 3, 128), (64, 3, 32), (None, None, "fsdp")),
        ((8, 1027), (2, 1027), ("fsdp",)),  # the largest axis that four devices divide
        ((63, 129), (63, 129), ()),
        ((32, 32), (32, 32), ()),  # small
        ((), (), ()),
    ],
)
def test_large_arrays_are_sharded_and_come_back_whole(shape, share, spec):
    runner = ShardedMesh(jax.local_devices()[:4])
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    placed = runner.replicate({"w": array})["w"]
    assert [shard.data.shape for shard in placed.addressable_shards] == [share] * 4
    assert placed.sharding.spec == PartitionSpec(*spec)
    np.testing.assert_array_equal(runner.fetch({"w": placed})["w"], array)


def test_sharded_weights_have_the_gradient_of_whole_ones():
    """tanh(x w) w', differentiated by both; the optimiser's state stays where it was."""
    runner = ShardedMesh(jax.local_devices()[:4])
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((128, 128)).astype(np.float32) / 12 for name in ("a", "b")}
    batch = {"x": rng.standard_normal((8, 128)).astype(np.float32)}
    network = runner.network(lambda w, x: jnp.tanh(x @ w["a"]) @ w["b"])

    def make(axis):
        def step(state, batch, key):
            loss = lambda w: jnp.mean(network(w, batch["x"]) ** 2)  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(state)
            return jax.tree.map(lambda w, g: w - g, state, gradient), {"loss": value}

        return step

    state = runner.replicate(weights)
    place = state["a"].sharding
    state, metrics = runner.compile(make, step=True)(state, runner.shard(batch), jax.random.key(0))
    assert state["a"].sharding.is_equivalent_to(place, 2)
    hidden = np.tanh(batch["x"] @ weights["a"])
    out = hidden @ weights["b"]
    np.testing.assert_allclose(runner.metrics(metrics)["loss"], np.mean(out**2), rtol=1e-5)
    back = 2 * out / out.size
    gradient = batch["x"].T @ ((back @ weights["b"].T) * (1 - hidden**2))
    after = runner.fetch(state)
    np.testing.assert_allclose(weights["b"] - after["b"], hidden.T @ back, atol=1e-6)
    np.testing.assert_allclose(weights["a"] - after["a"], gradient, atol=1e-6)


@pytest.mark.parametrize("runner", [SingleDevice, DataMesh, ShardedMesh])
def test_the_state_may_be_given_up(runner):
    runner = runner()
    state = runner.replicate({"w": np.ones(2, np.float32)})
    after, _ = runner.compile(make, step=True)(state, runner.shard(BATCH), jax.random.key(0))
    assert state["w"].is_deleted()
    assert not after["w"].is_deleted()


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_function_is_compiled_once(kind):
    """What was placed, and what a step gives back, are the same to the compiler."""
    runner = SingleDevice() if kind is None else kind(jax.local_devices()[:2])
    traces = []

    def counted(axis):
        step = make(axis)
        return lambda *arguments: (traces.append(1), step(*arguments))[1]

    function = runner.compile(counted, step=True)
    state = runner.replicate({"w": np.ones(2, np.float32)})
    for number in range(3):
        state, _ = function(state, runner.shard(BATCH), jax.random.key(number))
    assert len(traces) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_virtual_devices_run_one_program_at_a_time(kind):
    """A call has ended when it returns: a program beside one that averages can wait for ever."""
    runner = kind(jax.local_devices()[:2])

    def long(axis):
        def step(state, batch, key):
            w = jax.lax.fori_loop(0, 200, lambda _, w: jnp.cos(w @ w), state["w"])
            return {"w": w if axis is None else jax.lax.pmean(w, axis)}, {}

        return step

    function = runner.compile(long, step=True)
    state = runner.replicate({"w": np.ones((256, 256), np.float32)})
    for number in range(3):
        state, _ = function(state, runner.shard(BATCH), jax.random.key(number))
        assert state["w"].is_ready()


def test_runners_by_name():
    for name, kind in (("pmap", DataParallel), ("data", DataMesh), ("fsdp", ShardedMesh)):
        assert devices_of(name) == tuple(jax.devices())
        runner = runner_of(None, name)
        assert type(runner) is kind
        assert runner.count == 4
    assert devices_of(None) == (jax.devices()[0],)
    assert type(runner_of(None, None)) is SingleDevice
