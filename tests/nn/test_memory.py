"""Memory from shapes alone, against what XLA's compiler says of the same programs."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from fdiv_jax import cli, load_pipeline
from fdiv_jax.checkpoints import load_component
from fdiv_jax.nn import UNet2DConditionModel, room
from fdiv_jax.nn.memory import array_bytes, peak_bytes
from fdiv_jax.pipeline.memory import latent_text
from tests.tiny import tiny_pipeline

BOUNDS = 0.7, 1.7
"""Of estimate over truth."""


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def ratio(function, *arguments):
    """The estimate over what the compiled program stores."""
    told = jax.jit(function).lower(*arguments).compile().memory_analysis()
    true = told.temp_size_in_bytes + told.output_size_in_bytes
    estimate = peak_bytes(function, *arguments)
    print(f"estimate {estimate / 1e6:.2f} MB, XLA {true / 1e6:.2f} MB, ratio {estimate / true:.2f}")
    return estimate / true


def programs(pipe, rows):
    """Denoising, decoding and a gradient, each with its arguments."""
    graph, unet = nnx.split(pipe.unet)
    vae_graph, vae = nnx.split(pipe.vae)
    x = jax.ShapeDtypeStruct((rows, *pipe.latent_shape), jnp.float32)
    t = jax.ShapeDtypeStruct((rows,), jnp.int32)
    text = latent_text(pipe, rows)

    def denoise(parameters, x, t, text):
        return nnx.merge(graph, parameters)(x, t, text)

    def gradient(parameters, x, t, text):
        return jax.grad(lambda p: jnp.sum(denoise(p, x, t, text) ** 2))(parameters)

    return {
        "denoise": (denoise, unet, x, t, text),
        "decode": (lambda p, x: nnx.merge(vae_graph, p).decode(x), vae, x),
        "gradient": (gradient, unet, x, t, text),
    }


@pytest.mark.parametrize("name", [pytest.param("denoise", marks=pytest.mark.slow), "decode"])
def test_a_tiny_model_as_xla_stores_it(name, pipe):
    jax.config.update("jax_disable_most_optimizations", False)
    assert BOUNDS[0] < ratio(*programs(pipe, 64)[name]) < BOUNDS[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoise", "decode", "gradient"])
@pytest.mark.parametrize("rows", [4, 64])
def test_the_world_fashion_as_xla_stores_it(name, rows):
    assert BOUNDS[0] < ratio(*programs(load_pipeline("fashion"), rows)[name]) < BOUNDS[1]


def test_simple_programs_exactly():
    """What is stored of programs whose answer is plain."""
    square = jax.ShapeDtypeStruct((100, 100), jnp.float32)
    size, margin = 40_000, 1.4
    for function, stored in (
        (lambda a: a @ a, 1),
        (lambda a: jnp.sin(a) + a * 2, 1),
        (lambda a: jnp.sin(a) @ jnp.cos(a), 3),
        (lambda a: (a @ a) @ a, 2),
        (lambda a: ((a @ a) @ a) @ a, 2),
        (lambda a: jax.jit(lambda b: b @ b)(a) @ a, 2),
        (lambda a: a, 0),
    ):
        assert peak_bytes(function, square) == pytest.approx(margin * stored * size, abs=2)
    assert array_bytes({"a": square, "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}) == size + 6


def test_a_size_that_no_machine_has_is_a_number_and_takes_no_memory():
    vast = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32)
    assert peak_bytes(lambda a: a @ a, vast) == round(1.4 * 4 * 2**40)


@pytest.fixture
def scarce(monkeypatch):
    """A machine with little memory left."""

    def leave(size):
        monkeypatch.setattr(room, "free_bytes", lambda device=None: size)

    return leave


def test_drawing_and_decoding_are_refused_before_anything_is_drawn(pipe, scarce, monkeypatch):
    scarce(10**6)
    monkeypatch.setattr("fdiv_jax.pipeline.text_to_image.sample", None)
    with pytest.raises(
        MemoryError, match=r"images of 4096 x 4096 px needs about .* [GT]B of memory, 1 MB are"
    ):
        pipe(["a dog"] * 4, steps=1, size=(4096, 4096))
    with pytest.raises(MemoryError, match=r"drawing 4 images of 4096 x 4096 px needs about"):
        pipe.generate(["a dog"] * 4, steps=1, size=(4096, 4096))
    monkeypatch.setenv("FDIV_JAX_MEMORY_CHECK", "0")
    with pytest.raises(TypeError, match="NoneType"):  # it goes on to the sampler
        pipe.generate(["a dog"], steps=1)


@pytest.mark.slow
def test_a_model_of_the_largest_images_is_one_line(pipe, tmp_path, capsys):
    """sample_size is a count that no weight tells of."""
    import json

    directory = pipe.save(tmp_path / "model")
    path = directory / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 65_536}))
    for command in (
        ["sample", str(directory), "a dog", "--output", str(tmp_path / "x.png")],
        ["unlearn", str(directory), "--target", "sneaker", "--output", str(tmp_path / "run")],
        [
            "sweep",
            str(directory),
            "--target",
            "sneaker",
            "--divergences",
            "kl",
            "--output",
            str(tmp_path / "s"),
        ],
    ):
        assert cli.main(command) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("fdiv-jax")
        assert "needs about" in error
        assert "are free; expected" in error
    assert not (tmp_path / "x.png").exists()
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_fit_is_not_read(pipe, tmp_path, scarce):
    directory = pipe.save(tmp_path / "model")
    scarce(100)
    message = r"unet: a model of its size needs about .* of memory, 100 bytes are free"
    with pytest.raises(MemoryError, match=message):
        load_component(directory / "unet", UNet2DConditionModel)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 745. GiB for an array"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 34359738368 bytes."),
    ],
)
def test_running_out_all_the_same_is_one_line(error, capsys, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["sample", "fashion", "a dog"]) == 2
    told = capsys.readouterr().err
    assert "out of memory" in told
    assert "--batch-size" in told
    assert len(told.splitlines()) == 1


def test_other_runtime_errors_are_not_taken_for_it(monkeypatch):
    def fail(*_):
        raise RuntimeError("INTERNAL: something")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        cli.main(["sample", "fashion", "a dog"])


def test_what_is_free(tmp_path, monkeypatch):
    """The least of what the system and every control group leave, of both versions."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    monkeypatch.setattr(room, "_PROC", proc)
    monkeypatch.setattr(room, "_CGROUP", groups)
    assert room.free_bytes() is None
    (proc / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:       64 kB\n")
    assert room.free_bytes() == 65_536
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    (groups / "a" / "b").mkdir(parents=True)
    (groups / "a" / "b" / "memory.max").write_text("max\n")
    for place, most in ((groups / "a", 50_000), (groups, 60_000)):
        (place / "memory.max").write_text(f"{most}\n")
        (place / "memory.current").write_text("30000\n")
        (place / "memory.stat").write_text("anon 5\ninactive_file 10000\n")
    assert room.free_bytes() == 30_000
    (proc / "self" / "cgroup").write_text("9:cpu,memory:/x\n")
    (groups / "memory" / "x").mkdir(parents=True)
    (groups / "memory" / "x" / "memory.limit_in_bytes").write_text("9000\n")
    (groups / "memory" / "x" / "memory.usage_in_bytes").write_text("8000\n")
    (groups / "memory" / "x" / "memory.stat").write_text("total_inactive_file 500\n")
    assert room.free_bytes() == 1500


class Accelerator:
    platform = "gpu"

    def memory_stats(self):
        return {"bytes_limit": 10**9, "bytes_in_use": 4 * 10**8}


def test_an_accelerator_says_itself():
    assert room.free_bytes(Accelerator()) == 6 * 10**8
    with pytest.raises(MemoryError, match=r"it needs about 31 GB of memory, 600 MB are free; less"):
        room.require_room(31 * 10**9, "it", "less", Accelerator())
    room.require_room(10**8, "it", "less", Accelerator())
