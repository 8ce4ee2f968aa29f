"""Nothing is written through a link inside a run directory."""

import os
import shutil

import pytest

from fdiv_jax import UnlearningConfig
from fdiv_jax.files import check_no_links, open_own, refuse_links
from fdiv_jax.monitoring import SampleSheets, TensorBoardEvents
from fdiv_jax.monitoring._files import write_file
from fdiv_jax.unlearning import AnchorImagesConfig, cells_of, sweep, unlearn, unlearn_sequence
from fdiv_jax.unlearning.run_directory import RunDirectory
from tests.tiny import tiny_pipeline

DESCRIPTION = {"config": {"target": "sneaker"}, "model": {"name": "tiny", "sha256": "abc"}}
WRITTEN = (
    ".lock",
    "config.json",
    "metrics.jsonl",
    "report.html",
    "lora.safetensors",
    "scores.json",
    "samples/step-000001.png",
    "samples/fading.png",
    "tensorboard/events.out.tfevents.1",
    "checkpoints/step-00000001/manifest.json",
    ".result/pipeline/model_index.json",
)
FOLDERS = ("samples", "tensorboard", "checkpoints", "pipeline", ".result", "wandb")


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def precious(tmp_path):
    place = tmp_path / "precious"
    place.mkdir()
    (place / "file").write_text("precious\n")
    return place


@pytest.fixture
def run(tmp_path):
    with RunDirectory.open(tmp_path / "run", DESCRIPTION, resume=False) as directory:
        directory.log({"step": 1, "loss": 0.5, "m": 1.0})
    return tmp_path / "run"


def untouched(precious):
    return [path.name for path in precious.iterdir()] == ["file"] and (
        precious / "file"
    ).read_text() == "precious\n"


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_run_with_a_link_in_it_is_refused_before_anything_is_written(name, kind, run, precious):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(precious / "file")
    else:
        os.mkfifo(path)
    with (
        pytest.raises(ValueError, match=f"{path.name} is (a symbolic link to|neither)"),
        RunDirectory.open(run, DESCRIPTION, resume=True, takeover=True),
    ):
        pass
    assert untouched(precious)
    assert not (run / ".lock").is_file() or name == ".lock"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_refused(name, run, precious):
    (run / name).symlink_to(precious)
    with (
        pytest.raises(ValueError, match=f"{name} is a symbolic link to .*nothing is written through links"),
        RunDirectory.open(run, DESCRIPTION, resume=True),
    ):
        pass
    assert untouched(precious)


def test_links_that_come_while_a_run_goes_on_are_not_followed(run, precious):
    """Between the look at the directory and the writing, a link can take a file's place."""
    with RunDirectory.open(run, DESCRIPTION, resume=True) as directory:
        directory.restore({})
        for name in ("report.html", "samples", "tensorboard", "lora.safetensors", "wandb"):
            (run / name).symlink_to(precious / "file" if "." in name else precious)
        for path in (run / "report.html", run / "samples" / "fading.png", run / "wandb" / "id"):
            with pytest.raises(ValueError, match="symbolic link"):
                write_file(path, lambda place: place.write_text("x"), within=run)
        with pytest.raises(ValueError, match="symbolic link"):
            TensorBoardEvents(run).row({"step": 1, "loss": 1.0})
        with pytest.raises(ValueError, match="symbolic link"):
            directory.finish(lambda place: (place / "lora.safetensors").write_text("x"))
        (run / "lora.safetensors").unlink()
        (run / ".result").rename(run / "apart")
        (run / ".result").symlink_to(precious)
        with pytest.raises(ValueError, match="symbolic link"):
            directory.finish(lambda place: (place / "pipeline").mkdir())
    assert untouched(precious)


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_another_name_of_a_file_elsewhere_is_not_written_either(name, run, precious):
    """A hard link is no link to look at; what is written in its place would be written there too."""
    (run / name).unlink(missing_ok=True)
    content = (precious / "file").read_text()
    os.link(precious / "file", run / name)
    with RunDirectory.open(run, DESCRIPTION, resume=True) as directory:
        directory.restore({})
        directory.log({"step": 1})
        directory.save(1, {}, {})
        shutil.copy(run / "metrics.jsonl", precious / "copy")
        (run / "metrics.jsonl").unlink()
        os.link(precious / "copy", run / "metrics.jsonl")
    with RunDirectory.open(run, DESCRIPTION, resume=True) as directory:
        directory.restore({})
        directory.log({"step": 2})
    assert (precious / "file").read_text() == content
    assert len((precious / "copy").read_text().splitlines()) == 1


def test_the_directory_itself_may_be_a_link_of_its_user(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with RunDirectory.open(tmp_path / "run", DESCRIPTION, resume=False) as directory:
        directory.log({"step": 1})
    assert (tmp_path / "disk" / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_links_of_wandb_in_its_own_folder_are_let_be(run):
    (run / "wandb" / "run-1").mkdir(parents=True)
    (run / "wandb" / "latest-run").symlink_to("run-1")
    check_no_links(run)


def test_opening_in_place(tmp_path, precious):
    (tmp_path / "link").symlink_to(precious / "file")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(ValueError, match=name):
            open_own(tmp_path / name, os.O_WRONLY | os.O_TRUNC)
        with pytest.raises(ValueError, match=name):
            refuse_links(tmp_path / name / "below", tmp_path)
    os.close(open_own(tmp_path / "new", os.O_WRONLY))
    refuse_links(tmp_path / "new", tmp_path)
    assert untouched(precious)


CONFIG = UnlearningConfig("sneaker", steps=1, batch_size=2, images=AnchorImagesConfig(number=2, steps=1))


@pytest.mark.parametrize("name", ["table.csv", "table.json", "closed-kl-superclass-0", ".x"])
def test_a_sweep(name, tmp_path, precious, pipe):
    output = tmp_path / "sweep"
    output.mkdir()
    (output / name).symlink_to(precious if "." not in name else precious / "file")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        sweep(pipe, cells_of(CONFIG, ["kl"]), output, resume=True, cache=False)
    assert untouched(precious)


@pytest.mark.parametrize("name", ["retention.csv", "00-frozen", "01-sneaker"])
def test_a_sequence(name, tmp_path, precious, pipe):
    output = tmp_path / "sequence"
    output.mkdir()
    (output / name).symlink_to(precious if "." not in name else precious / "file")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        unlearn_sequence(pipe, CONFIG, output, lambda _: {}, resume=True, cache=False)
    assert untouched(precious)


def test_a_new_run_into_a_directory_of_links(tmp_path, precious, pipe):
    output = tmp_path / "run"
    output.mkdir()
    (output / ".lock").symlink_to(precious / "file")
    with pytest.raises(ValueError, match=r"\.lock is a symbolic link"):
        unlearn(pipe, CONFIG, output, cache=False)
    assert untouched(precious)


def test_a_sheet_that_is_no_sheet_of_ours_is_drawn_again(tmp_path, pipe):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    for text in ("[]", '{"boxes": 3}', "[" * 100_000, "{"):
        about = PngInfo()
        about.add_text("fdiv-jax", text)
        (tmp_path / "samples").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "samples" / "step-000000.png", pnginfo=about)
        sheets = SampleSheets(pipe, ["a dog"], tmp_path, 1)
        assert sheets._tiles(0) is None
