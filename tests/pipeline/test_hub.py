"""Hub models, with a stand-in for the download."""

import fnmatch
import os
import shutil
import subprocess
import sys

import pytest

import fdiv_jax as fj
from fdiv_jax.pipeline.hub import is_hub_id
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline(2).save(tmp_path_factory.mktemp("hub") / "snapshot")


@pytest.fixture
def hub(monkeypatch):
    """Give `hub` what snapshot_download is to return or raise; it records what was asked."""
    asked = {}

    def answer(outcome):
        def download(repository, **options):
            asked.update(options, repository=repository)
            if isinstance(outcome, Exception):
                raise outcome
            return str(outcome)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return asked

    return answer


def test_a_hub_id_is_downloaded_and_loaded(hub, model):
    asked = hub(model)
    pipe = fj.load_pipeline("someone/tiny-model", revision="v2", offline=True)
    assert pipe.name == "someone/tiny-model"
    assert (asked["repository"], asked["revision"], asked["local_files_only"]) == (
        "someone/tiny-model",
        "v2",
        True,
    )
    patterns = asked["allow_patterns"]
    assert "unet/diffusion_pytorch_model.safetensors" in patterns
    assert not any(p.endswith((".bin", ".ckpt")) or p in ("*", "*.safetensors", "unet/*") for p in patterns)


def test_without_weights_none_is_downloaded(hub, model, tmp_path):
    outline = shutil.copytree(model, tmp_path / "outline", ignore=shutil.ignore_patterns("*.safetensors"))
    asked = hub(outline)
    pipe = fj.load_pipeline("someone/tiny-model", variant="fp16", weights=False)
    assert pipe.latent_shape == tiny_pipeline(2).latent_shape
    assert not any("safetensors" in pattern for pattern in asked["allow_patterns"])
    needed = [path.relative_to(outline).as_posix() for path in outline.rglob("*.json")]
    assert not [name for name in needed if not any(fnmatch.fnmatch(name, p) for p in asked["allow_patterns"])]


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder_2/model-00001-of-00002.fp16.safetensors",  # as diffusers named them before 0.27
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    ],
)
def test_every_name_of_a_variant_is_downloaded(hub, name):
    asked = hub(OSError("no"))
    with pytest.raises(FileNotFoundError):
        fj.load_pipeline("someone/model", variant="fp16")
    assert any(fnmatch.fnmatch(name, pattern) for pattern in asked["allow_patterns"])
    plain = name.replace(".fp16", "")
    assert plain.endswith(".json") or not any(fnmatch.fnmatch(plain, p) for p in asked["allow_patterns"])


def test_a_repository_of_pickles_is_refused(hub, model, tmp_path):
    shutil.copytree(model, tmp_path / "pickled")
    (tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hub(tmp_path / "pickled")
    with pytest.raises(ValueError, match=r"no safetensors weights for unet.*runs any code"):
        fj.load_pipeline("someone/pickles")


@pytest.mark.parametrize("text", ["{", "3"])
def test_a_repository_with_half_an_index_is_named(hub, model, tmp_path, text):
    shutil.copytree(model, tmp_path / "half")
    (tmp_path / "half" / "model_index.json").write_text(text)
    hub(tmp_path / "half")
    with pytest.raises(ValueError, match=r"someone/half: .*model_index.json.*(not JSON|JSON object)"):
        fj.load_pipeline("someone/half")


def test_what_cannot_be_had_is_one_clear_error(hub):
    from huggingface_hub.errors import LocalEntryNotFoundError

    hub(LocalEntryNotFoundError("no connection"))
    with pytest.raises(FileNotFoundError, match=r"someone/nothing.*cannot be reached"):
        fj.load_pipeline("someone/nothing")
    with pytest.raises(FileNotFoundError, match="not in the local cache"):
        fj.load_pipeline("someone/nothing", offline=True)
    hub(OSError("401 Client Error\nmore"))
    with pytest.raises(FileNotFoundError, match=r"someone/nothing.*401 Client Error\)"):
        fj.load_pipeline("someone/nothing")


def test_a_connection_that_breaks_is_one_clear_error(hub):
    """The transport's own errors are of no kind that Python knows."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = next(kind for kind in HfHubHTTPError.__mro__[1:] if issubclass(kind, Exception))
    hub(type("ReadTimeout", (transport,), {})("the read operation timed out"))
    with pytest.raises(FileNotFoundError, match=r"someone/slow: .*\(the read operation timed out\)"):
        fj.load_pipeline("someone/slow")


def test_a_name_that_no_repository_can_have_is_refused():
    with pytest.raises(ValueError, match="a/b--c"):
        fj.load_pipeline("a/b--c", offline=True)


@pytest.mark.slow
def test_the_real_downloader_without_a_hub(tmp_path):
    """In a process of its own, where nothing listens at the hub's address and the cache is empty."""
    code = "import fdiv_jax as fj; fj.load_pipeline('someone/unreachable')"
    settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | settings
    )
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("FileNotFoundError: model someone/unreachable: the hub cannot be reached")


def test_the_real_downloader_offline():
    with pytest.raises(FileNotFoundError, match="not in the local cache"):
        fj.load_pipeline("someone/surely-not-in-any-cache", offline=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b", True), ("CompVis/stable-diffusion-v1-4", True), ("a", False), ("a/b/c", False), ("../b", False)],
)
def test_what_reads_as_a_hub_id(name, expected):
    assert is_hub_id(name) is expected


def test_a_missing_directory_is_no_download(hub, tmp_path):
    asked = hub(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        fj.load_pipeline(tmp_path / "nothing")
    assert not asked


@pytest.fixture
def remote(monkeypatch, tmp_path):
    """A hub with one repository, the directory that is returned, and an empty cache."""
    repository, cache = tmp_path / "remote", tmp_path / "cache"
    asked = []

    def download(_, *, allow_patterns, **__):
        asked.append(allow_patterns)
        for file in repository.rglob("*"):
            name = file.relative_to(repository).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, cache / name)
        return str(cache)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return repository, cache


def test_a_variant_of_some_components_is_completed_by_the_others_plain_weights(remote, model):
    repository, cache = remote
    shutil.copytree(model, repository)
    unet = repository / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(unet, unet.with_suffix(".fp16.safetensors"))
    (repository / "vae" / "diffusion_pytorch_model.bin").write_text("pickle")
    pipe = fj.load_pipeline("someone/model", variant="fp16")
    assert (cache / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert not (cache / unet.relative_to(repository)).exists()  # not needed
    assert (cache / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert not list(cache.rglob("*.bin"))
    assert pipe.name == "someone/model"
    with pytest.raises(ValueError, match="no safetensors weights of variant 'non_ema' for"):
        fj.load_pipeline("someone/model", variant="non_ema")


def test_a_variant_that_none_has_fails_without_the_plain_weights(remote, model):
    """Plain weights of gigabytes are not downloaded for an error."""
    repository, cache = remote
    shutil.copytree(model, repository)
    with pytest.raises(ValueError, match="no safetensors weights of variant 'fp16' for unet"):
        fj.load_pipeline("someone/model", variant="fp16")
    assert not list(cache.rglob("*.safetensors"))


def test_components_that_are_not_run_are_downloaded_without_their_pickles(remote, model):
    repository, cache = remote
    shutil.copytree(model, repository)
    for name in ("safety_checker/model.safetensors", "safety_checker/pytorch_model.bin"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text("x")
    (repository / "safety_checker" / "config.json").write_text("{}")
    (repository / "feature_extractor").mkdir()
    (repository / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    fj.load_pipeline("someone/model")
    found = {file.relative_to(cache).as_posix() for file in cache.rglob("*") if file.is_file()}
    assert {"safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json"} <= found
    assert "safety_checker/config.json" in found
    assert "safety_checker/pytorch_model.bin" not in found
