"""Contact sheets, and those of a run: every pixel where it belongs, resumed or not, disk full or not."""

import errno

import numpy as np
import pytest
from PIL import Image

from fdiv_jax.monitoring import SampleSheets, contact_sheet
from fdiv_jax.monitoring.sheets import spread
from fdiv_jax.pages import shrunk

PROMPTS = ["a sneaker, photo style", "a sneaker, sketch style"]
OPTIONS = {"seed": 3, "steps": 2, "guidance": 2.0, "sampler": "ddim"}


def test_a_contact_sheet_keeps_every_pixel():
    pictures = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    for headings, shift in ((), 0), (("1", "2", "3"), 20):
        sheet = np.asarray(contact_sheet(pictures, ["a shoe", "a top"], headings=headings))
        assert sheet.shape == (4 + shift + 2 * 152, 3 * 132 + 4, 3)
        for row in range(2):
            for column in range(3):
                top, left = 4 + shift + row * (20 + 128 + 4) + 20, 4 + column * 132
                tile = sheet[top : top + 128, left : left + 128]
                np.testing.assert_array_equal(tile[::4, ::4], pictures[row * 3 + column])
                np.testing.assert_array_equal(tile[3::4, 3::4], pictures[row * 3 + column])


@pytest.mark.parametrize(
    ("pictures", "labels", "headings"),
    [
        (np.zeros((3, 8, 8, 3), np.uint8), ["a", "b"], ()),
        (np.zeros((2, 8, 8, 3), np.float32), ["a", "b"], ()),
        (np.zeros((2, 8, 8), np.uint8), ["a"], ()),
        (np.zeros((0, 8, 8, 3), np.uint8), ["a"], ()),
        (np.zeros((2, 8, 8, 3), np.uint8), [], ()),
        (np.zeros((2, 8, 8, 3), np.uint8), ["a"], ["one"]),
    ],
)
def test_a_contact_sheet_refuses_what_does_not_fit(pictures, labels, headings):
    with pytest.raises(ValueError, match="got"):
        contact_sheet(pictures, labels, headings=headings)


def test_labels_of_any_length_in_one_line():
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    widths = [contact_sheet(pictures, [label]).width for label in ("a", "word " * 12, "word " * 10_000)]
    assert widths[0] == 136
    assert widths[0] < widths[1] < widths[2] <= 640
    broken, joined = (contact_sheet(pictures, [text]) for text in ("two\nlines\t\u00e9", "two lines \u00e9"))
    assert broken.tobytes() == joined.tobytes()


def test_spread_and_shrunk():
    assert spread([1, 2, 3], 6) == [1, 2, 3]
    assert spread(range(12), 6) == [0, 2, 4, 6, 8, 10]
    assert spread(range(7), 6) == [0, 1, 2, 3, 4, 5]
    green = Image.new("RGB", (400, 100), (10, 200, 30))
    assert shrunk(green, 400) is green
    assert shrunk(green, 160).size == (160, 40)
    assert np.all(np.asarray(shrunk(green, 160)) == (10, 200, 30))


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def watch(pipe, after, directory, steps, every=2, prompts=PROMPTS, **options):
    """Show the model of each step to a watcher; even ones are the model before, odd ones the other."""
    sheets = SampleSheets(pipe, prompts, directory, every, **{**OPTIONS, **options})
    for step in steps:
        sheets.row({"step": step})
        sheets.model(step, lambda step=step: after if step % 4 else pipe)
    return sheets


def names(directory):
    return sorted(path.name for path in (directory / "samples").iterdir())


def contents(directory):
    return {path.name: path.read_bytes() for path in (directory / "samples").iterdir()}


@pytest.mark.slow
def test_sheets_and_strip(pipe, after, tmp_path, result):
    sheets = watch(pipe, after, tmp_path, range(6))
    assert names(tmp_path) == ["fading.png", "step-000000.png", "step-000002.png", "step-000004.png"]
    before, then = (model(PROMPTS, **OPTIONS) for model in (pipe, after))
    assert np.any(before != then)
    strip = picture(tmp_path / "samples" / "fading.png")
    for column, pictures in enumerate((before, then, before)):
        alone = picture(tmp_path / "samples" / f"step-{2 * column:06d}.png")
        for row, image in enumerate(pictures):
            top = 4 + 20 + 20 + row * 152
            np.testing.assert_array_equal(alone[top : top + 128, 4:132][::16, ::16], image)
            tile = strip[top : top + 128, 4 + column * 132 :][:, :128]
            np.testing.assert_array_equal(tile[::16, ::16], image)
    sheets.end(result(steps=5))
    assert "step-000005.png" in names(tmp_path)
    assert picture(tmp_path / "samples" / "fading.png").shape[1] == strip.shape[1] + 132


def test_the_last_sheet_is_drawn_once(pipe, after, tmp_path, result):
    sheets = watch(pipe, after, tmp_path, range(5))
    written = contents(tmp_path)
    sheets.end(result(steps=4))  # its model is another one than that of step 4
    assert contents(tmp_path) == written


def test_the_edit_has_no_steps(pipe, tmp_path, result):
    SampleSheets(pipe, PROMPTS, tmp_path, 2, **OPTIONS).end(result(history={}, method="edit"))
    assert not (tmp_path / "samples").exists()


def test_a_resumed_run_has_the_same_sheets(pipe, after, tmp_path):
    watch(pipe, after, tmp_path / "whole", range(9))
    watch(pipe, after, tmp_path / "broken", range(8))  # dies after a checkpoint of step 3
    (tmp_path / "broken" / "samples" / "step-000007.png").write_bytes(b"of a run that is taken back")
    watch(pipe, after, tmp_path / "broken", range(4, 6))
    assert names(tmp_path / "broken") == [
        "fading.png",
        "step-000000.png",
        "step-000002.png",
        "step-000004.png",
    ]
    watch(pipe, after, tmp_path / "broken", range(6, 9))
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")


def test_a_run_that_is_first_watched_when_it_is_resumed(pipe, after, tmp_path):
    watch(pipe, after, tmp_path / "late", range(3, 5))
    assert names(tmp_path / "late") == ["fading.png", "step-000000.png", "step-000004.png"]
    watch(pipe, after, tmp_path / "whole", range(1))
    first = contents(tmp_path / "whole")["step-000000.png"]
    assert contents(tmp_path / "late")["step-000000.png"] == first


def test_sheets_of_other_images_stay_out_of_the_strip(pipe, after, tmp_path):
    watch(pipe, after, tmp_path, range(3))
    Image.new("RGB", (9, 9)).save(tmp_path / "samples" / "step-000001.png")
    watch(pipe, after, tmp_path, range(3, 5), seed=4)
    assert "step-000002.png" in names(tmp_path)
    strip = picture(tmp_path / "samples" / "fading.png")
    watch(pipe, after, tmp_path / "other", [0, 4], seed=4)
    np.testing.assert_array_equal(strip, picture(tmp_path / "other" / "samples" / "fading.png"))


def test_a_full_disk_is_told_in_one_line_and_spoils_nothing(pipe, after, tmp_path, monkeypatch):
    sheets = watch(pipe, after, tmp_path, range(3))
    written = contents(tmp_path)

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"cannot write .*step-000004\.png: No space left on device") as caught:
        sheets.model(4, lambda: after)
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == written


@pytest.mark.parametrize(("prompts", "every"), [([], 1), (PROMPTS, 0)])
def test_sheets_of_nothing_are_refused(pipe, tmp_path, prompts, every):
    with pytest.raises(ValueError, match="expected prompts and a sheet every"):
        SampleSheets(pipe, prompts, tmp_path, every)


@pytest.mark.slow
def test_at_most_six_prompts_and_names_for_the_empty_one(pipe, after, tmp_path):
    watch(pipe, after, tmp_path, [0], prompts=["", *(f"prompt {i}" for i in range(8))])
    assert len(picture(tmp_path / "samples" / "step-000000.png")) == 4 + 20 + 6 * 152
