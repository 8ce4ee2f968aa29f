"""The store of drawn images: drawn once, found again, drawn again where they are damaged."""

import dataclasses
import errno

import numpy as np
import pytest

from fdiv_jax.evaluation import ImageStore
from fdiv_jax.evaluation import images as module
from fdiv_jax.evaluation.images import drawing_digest, pipeline_digest
from tests.evaluation.models import protocol
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 3)


class Counting:
    """A pipeline that counts the images that it draws, and may fail."""

    def __init__(self, pipe, fail_after=None):
        self.pipe, self.calls, self.fail_after = pipe, [], fail_after

    def __getattr__(self, name):
        return getattr(self.pipe, name)

    def __call__(self, prompts, **options):
        if self.fail_after is not None and len(self.calls) >= self.fail_after:
            raise KeyboardInterrupt
        self.calls.append(list(zip(prompts, options["seed"], strict=True)))
        return self.pipe(prompts, **options)


@pytest.mark.slow
def test_images_are_the_pipelines_own_and_drawn_once(pipe, tmp_path):
    plan, store = protocol(), ImageStore(tmp_path)
    counting = Counting(pipe)
    total = 2 * 3 + 3 + 2 * 2
    assert store.draw("f", counting, plan) == total
    assert store.draw("f", counting, plan) == 0
    assert len(counting.calls) == 5
    own = pipe(["a sneaker, photo style"] * 3, seed=[2, 1, 0], steps=2, guidance=2.0)
    found = store.read("f", "a sneaker, photo style", (2, 1, 0))
    np.testing.assert_array_equal(found, own)
    assert len(list(tmp_path.rglob("*.png"))) == total
    memory = ImageStore(None)
    memory.draw("f", pipe, plan)
    np.testing.assert_array_equal(memory.read("f", "a sneaker, photo style", (2, 1, 0)), found)


def test_a_killed_run_goes_on_and_gives_the_same_bits(pipe, tmp_path):
    plan = protocol()
    whole, stopped = ImageStore(tmp_path / "whole"), ImageStore(tmp_path / "stopped")
    whole.draw("f", pipe, plan)
    with pytest.raises(KeyboardInterrupt):
        stopped.draw("f", Counting(pipe, fail_after=2), plan)
    counting = Counting(pipe)
    assert stopped.draw("f", counting, plan) == 13 - 6
    assert len(counting.calls) == 3
    for each in plan.sets:
        for prompt in each.prompts:
            seeds = plan.seeds(each.role)
            np.testing.assert_array_equal(whole.read("f", prompt, seeds), stopped.read("f", prompt, seeds))


def test_an_image_keeps_its_place_in_its_batch(pipe, tmp_path):
    """What a process that was killed within a batch left out is drawn among the same images as before."""
    plan, store, first = protocol(), ImageStore(tmp_path), Counting(pipe)
    store.draw("f", first, plan)
    prompt, seed = first.calls[1][1]
    words = prompt.replace(",", "").replace(" ", "-")
    (path,) = (file for file in tmp_path.rglob(f"{seed}.png") if file.parent.name.startswith(words))
    path.unlink()
    again = Counting(pipe)
    assert store.draw("f", again, plan) == 1
    assert again.calls == [first.calls[1]]


def test_a_damaged_or_a_foreign_image_is_drawn_again(pipe, tmp_path):
    plan, store = protocol(), ImageStore(tmp_path)
    store.draw("f", pipe, plan)
    files = sorted(tmp_path.rglob("*.png"))
    kept = [file.read_bytes() for file in files]
    files[0].write_bytes(kept[0][: len(kept[0]) // 2])
    files[1].write_bytes(b"")
    files[2].write_bytes(kept[3])  # the image of another place
    flipped = bytearray(kept[4])
    flipped[flipped.index(b"IDAT") + 20] ^= 1
    files[4].write_bytes(bytes(flipped))
    assert store.draw("f", pipe, plan) == 4
    assert [file.read_bytes() for file in files] == kept


def test_a_full_disk_says_so_and_keeps_the_images_so_far(pipe, tmp_path, monkeypatch):
    store, plan = ImageStore(tmp_path), protocol()
    real, written = module.atomic_file, []

    def full(path, **options):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return real(path, **options)

    monkeypatch.setattr(module, "atomic_file", full)
    with pytest.raises(OSError, match="No space left on device; the images so far are kept") as error:
        store.draw("f", pipe, plan)
    assert error.value.errno == errno.ENOSPC
    monkeypatch.setattr(module, "atomic_file", real)
    assert store.draw("f", pipe, plan) == 13 - 5


def test_a_link_is_not_written_through(pipe, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "f").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="f is a symbolic link"):
        ImageStore(tmp_path / "images").draw("f", pipe, protocol())
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_folder_depends_on_all_that_draws(pipe):
    plan = protocol()
    one = pipeline_digest(pipe)
    assert one == pipeline_digest(tiny_pipeline())
    others = [
        tiny_pipeline(1),
        tiny_pipeline().replace(vae=tiny_pipeline(1).vae),
        tiny_pipeline().replace(text_encoder=tiny_pipeline(1).text_encoder),
        tiny_pipeline(scheduler={"beta_end": 0.013}),
        tiny_pipeline().replace(loaded_with={"dtype": "bfloat16"}),
    ]
    assert len({one, *map(pipeline_digest, others)}) == 6
    folders = {
        drawing_digest(one, dataclasses.replace(plan, **c).drawing) for c in ({}, {"steps": 3}, {"eta": 1.0})
    }
    assert len(folders) == 3
    renamed = dataclasses.replace(plan, name="x", metrics=("ua",))
    assert drawing_digest(one, renamed.drawing) == drawing_digest(one, plan.drawing)
