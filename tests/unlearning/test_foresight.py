"""Plans for chips that are not here: arithmetic by hand, the search for a batch, and compilers' figures."""

import importlib.util
import math

import jax
import jax.numpy as jnp
import pytest

from fdiv_jax import cli, load_pipeline
from fdiv_jax.distributed.chips import CHIPS, Topology, topology_of, tpu_devices
from fdiv_jax.distributed.programs import Program, collective_bytes, compiled_figures, wire_bytes
from fdiv_jax.nn import named_parameters
from fdiv_jax.nn.work import work_of
from fdiv_jax.unlearning import UnlearningConfig, foresight
from fdiv_jax.unlearning.foresight import Foresight, Roofline, StepCost, largest_batch
from fdiv_jax.unlearning.step import make_reference, make_step
from tests.tiny import tiny_pipeline

F32 = jnp.float32


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, F32)


def test_products_and_loops_are_counted():
    def function(a, b):
        return jax.lax.scan(lambda c, _: (c @ b, None), a @ b, None, length=5)[0]

    work = work_of(function, shape(4, 8), shape(8, 8))
    one = 2 * 4 * 8 * 8
    assert (work.flops, work.once) == (6 * one, 2 * one)
    assert work.moved == 6 * 4 * (4 * 8 + 8 * 8 + 4 * 8)


@pytest.mark.parametrize(("stride", "spread", "padding"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 1, 0)])
def test_convolutions_are_counted_without_the_zeros_between(stride, spread, padding):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(padding, padding)] * 2, lhs_dilation=(spread, spread)
        )

    # With ones everywhere a result is the number of products that made it.
    x, kernel = jnp.ones((2, 3, 6, 5)), jnp.ones((4, 3, 3, 3))
    assert work_of(convolve, x, kernel).flops == 2 * float(convolve(x, kernel).sum())


def test_the_work_of_a_gradient_is_that_which_xla_counts():
    def loss(w, x):
        return jnp.sum(jax.lax.conv_general_dilated(x, w, (1, 1), "VALID") ** 2)

    w, x = shape(8, 16, 3, 3), shape(4, 16, 12, 12)
    told = jax.jit(jax.grad(loss)).lower(w, x).cost_analysis()["flops"]
    assert work_of(jax.grad(loss), w, x).flops == pytest.approx(told, rel=0.02)


def test_the_roofline_by_hand():
    cost = StepCost(0, 0, 0, 0, 0, (0, 0), 197e12, 1.0, 2 * 819e9, {"all-reduce": 800 * 10**9}, True, True)
    roofline = Roofline.of(cost, topology_of("v5e:2x4"), "bfloat16")
    # a ring of 8 sends 2 x 7/8 of 800 GB over links of 200 GB/s
    assert (roofline.arithmetic, roofline.memory, roofline.network) == pytest.approx((1.0, 2.0, 7.0))
    assert (roofline.seconds, roofline.bound) == (pytest.approx(7.0), "network")
    assert Roofline.of(cost, topology_of("h100"), "float32").arithmetic == pytest.approx(197 / 494.5)
    assert Roofline.of(cost, topology_of("h100"), "float32").network == 0


def test_the_bytes_of_collectives():
    text = """
      %a = f32[4,8]{1,0} all-reduce(f32[4,8]{1,0} %x), replica_groups={}
      %b = (f32[16]{0}, bf16[3]{0}) all-reduce(%p, %q), to_apply=%add
      %c = (f32[2]{0}, f32[16]{0}) all-gather-start(f32[2]{0} %x), dimensions={0}
      %d = f32[16]{0} all-gather-done((f32[2]{0}, f32[16]{0}) %c)
      %e = ((f32[2], f32[4]), (f32[16], f32[32])) all-gather-start(%x, %y), dimensions={0}
    """
    found = collective_bytes(text)
    assert (found["all-reduce"], found["all-gather"]) == (128 + 64 + 6, 64 + 64 + 128)
    assert wire_bytes({"all-gather": 80, "reduce-scatter": 10, "all-to-all": 8}, 8) == 70 + 70 + 7
    assert wire_bytes({"all-reduce": 80}, 1) == 0


@pytest.mark.parametrize("first", [1, 16, 500])
@pytest.mark.parametrize(
    ("memory", "most"),
    [
        (lambda n: 1000 + 7 * n, (10_000 - 1000) // 7),
        (lambda n: 1000 + 64 * 7 * math.ceil(n / 64), (9000 // 448) * 64),
        (lambda n: 100 * n if n < 40 else 300 * n, 39),
        (lambda n: 20_000 + n, None),
    ],
)
def test_the_largest_batch_fits_and_is_nearly_the_largest(memory, most, first):
    asked = []
    found = largest_batch(lambda n: asked.append(n) or memory(n), 10_000, first)
    assert len(asked) == len(set(asked)) <= 7
    if most is None:
        assert found is None
        return
    assert found == (found[0], memory(found[0]))
    assert found[1] <= 10_000
    assert 0.85 * most <= found[0] <= most


def test_a_line_takes_three_compilations():
    asked = []
    found = largest_batch(lambda n: asked.append(n) or 1000 + 7 * n, 10_000, 16)
    assert (found, asked) == ((1285, 9995), [16, 32, 1285])


@pytest.mark.parametrize("text", ["v5e:2x4", "v4:2x2x1", "h100:8"])
def test_topologies_are_read(text):
    assert str(topology_of(text)) == text
    assert topology_of("v5e") == Topology("v5e", (1, 1))
    assert topology_of("v5e:2x4").count == 8


@pytest.mark.parametrize(
    "text", ["v5e:2x2x1", "v5e:0x4", "v5e:2x", "h100:2x2", "v4:2x2", "v5e:-1x2", "h100:"]
)
def test_shapes_that_there_are_not(text):
    with pytest.raises(ValueError, match=r"shape .*expected"):
        topology_of(text)


def test_an_unknown_chip_names_the_known_ones(capsys):
    assert cli.main(["plan", "fashion", "--topology", "h10"]) == 2
    told = capsys.readouterr().err
    assert "did you mean h100?" in told
    assert all(name in told for name in CHIPS)
    assert told.count("\n") == 1


def test_without_the_compiler_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotImplementedError, match=r"install fdiv-jax\[tpu\]"):
        tpu_devices(topology_of("v5e:2x4"))


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def config(**changes):
    return UnlearningConfig(**{"target": "cat", "anchor": "prompt: a dog", "prompts": ("a cat",), **changes})


def test_a_batch_that_the_chips_do_not_divide(pipe):
    with pytest.raises(ValueError, match="batch of 12 for the 8 chips of h100:8; expected a multiple of 8"):
        Foresight(pipe, config(batch_size=12), topology_of("h100:8"))
    with pytest.raises(ValueError, match="an accumulation of 2; expected a multiple of 16"):
        Foresight(pipe, config(batch_size=8, accumulation=2), topology_of("h100:8"))


@pytest.mark.slow
def test_a_model_of_a_gpu(pipe):
    one = Foresight(pipe, config(batch_size=2), topology_of("h100")).cost(2)
    eight = Foresight(pipe, config(batch_size=16, remat="blocks"), topology_of("h100:8")).cost(16)
    assert not one.compiled
    assert one.fits
    assert one.collectives == {}
    assert list(eight.collectives) == ["all-reduce"]
    assert eight.minimum == pytest.approx(one.minimum)  # two samples a chip
    assert one.minimum <= one.flops
    assert 1.1 * one.flops < eight.flops  # computed again, on any machine
    assert one.between[0] < one.memory < one.between[1]
    assert one.arguments == eight.arguments


class Lowered:
    """A program whose compilation is counted."""

    def __init__(self, function, *arguments):
        self.lowered, self.count = jax.jit(function).lower(*arguments), 0

    def as_text(self):
        return self.lowered.as_text()

    def compile(self):
        self.count += 1
        return self.lowered.compile()


def test_what_was_compiled_is_kept(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(foresight, "version", lambda name: "1")
    seen = Foresight(pipe, config(batch_size=4), topology_of("h100"), tmp_path)
    program = Lowered(lambda x: x @ x, shape(8, 8))
    first = seen._program(program, 0)
    assert (seen._program(program, 0), program.count) == (first, 1)
    kept = next(tmp_path.rglob("*.json"))
    kept.write_text(kept.read_text()[:20])  # cut off
    assert (seen._program(program, 0), program.count) == (first, 2)
    monkeypatch.setattr(foresight, "version", lambda name: "2")
    assert (seen._program(program, 0), program.count) == (first, 3)


def test_a_program_without_room_says_how_much_it_wants():
    class Full:
        def compile(self):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
                "(745.52G) exceeds available HBM (15.75G)."
            )

    found = compiled_figures(Full(), held=100)
    assert not found.fits
    assert found.memory == 100 + int(745.52 * 2**30)


@pytest.mark.slow
def test_the_model_beside_the_compiler_of_this_machine():
    """The estimate of the whole, model and temporaries, against the CPU's compiler on the same step."""
    seen = Foresight(load_pipeline("fashion"), UnlearningConfig(target="sneaker"), topology_of("h100"))
    state, frozen, rows, reference, key = seen._arguments(seen.plan, 16)
    step = jax.jit(make_step(seen.plan), donate_argnums=0).lower(state, frozen, rows, reference, key)
    true, foreseen = compiled_figures(step), seen.cost(16)
    print(f"foreseen {foreseen.memory:,} of {foreseen.between}, compiled {true.memory:,}")
    assert foreseen.memory == pytest.approx(true.memory, rel=0.1)
    # the step leaves out arguments that it does not read, such as the anchor's text
    assert foreseen.arguments == pytest.approx(true.arguments, rel=0.03)
    look = compiled_figures(jax.jit(make_reference(seen.plan)).lower(frozen, rows, key))
    assert foreseen.flops == pytest.approx(true.flops + look.flops, rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not here"
)
def test_the_compiler_of_a_tpu(tmp_path, monkeypatch):
    pipe, topology = load_pipeline("fashion"), topology_of("v5e:2x4")
    asked = UnlearningConfig(target="sneaker", batch_size=16, parallel="data")
    cost = Foresight(pipe, asked, topology, tmp_path).cost(16)
    assert cost.compiled
    assert cost.fits
    assert 1 <= cost.flops / cost.minimum < 1.2
    # all that the chips tell each other is the gradient of what learns
    seen = Foresight(pipe, asked, topology, tmp_path)
    trained = seen.prepared.selection.count * 4
    assert trained <= sum(cost.collectives.values()) < 1.05 * trained
    monkeypatch.setattr(foresight, "compiled_figures", lambda *_, **__: pytest.fail("compiled again"))
    assert seen.cost(16) == cost


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not here"
)
@pytest.mark.filterwarnings("ignore:no fused attention")
def test_a_step_without_room_on_a_tpu_has_the_models_figures(monkeypatch):
    def full(lowered, held=0, **options):
        return Program(held, 10**12, 0, 0, 0.0, 0.0, {}, fits=False)

    monkeypatch.setattr(foresight, "compiled_figures", full)
    asked = UnlearningConfig(target="sneaker", batch_size=8, parallel="fsdp", accumulation=2)
    pipe = load_pipeline("fashion")
    cost = Foresight(pipe, asked, topology_of("v5e:2x2")).cost(8)
    assert not cost.fits
    assert cost.flops >= cost.minimum
    assert cost.moved > 0
    unet = sum(value.nbytes for value in named_parameters(pipe.unet).values())
    assert cost.collectives["all-gather"] == 3 * 2 * unet
    assert 0 < cost.collectives["all-reduce"] < unet


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not here"
)
@pytest.mark.filterwarnings("ignore:no fused attention")
@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_the_compiler_of_a_tpu_takes_the_fused_kernels(parallel, monkeypatch):
    """At its least effort; 1,024 pixels attend to each other."""
    compiled, kernels = foresight.compiled_figures, []

    def look(lowered, *held, **options):
        kernels.append("tpu_custom_call" in lowered.as_text())
        return compiled(lowered, *held, **options)

    monkeypatch.setattr(foresight, "compiled_figures", look)
    asked = UnlearningConfig(target="sneaker", batch_size=8, parallel=parallel)
    cost = Foresight(tiny_pipeline(latent=32), asked, topology_of("v5e:2x2"), quick=True).cost(8)
    assert kernels == [parallel == "data"] * 2
    assert cost.fits
    assert 1 <= cost.flops / cost.minimum < 1.5
