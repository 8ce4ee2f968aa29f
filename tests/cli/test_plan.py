"""`fdiv-jax plan`: what it prints is what is foreseen for the model, whose weights it does not read."""

import dataclasses
import json
import shutil

import pytest

from fdiv_jax import cli, load_pipeline
from fdiv_jax.assets import asset_directory
from fdiv_jax.distributed.chips import topology_of
from fdiv_jax.unlearning import UnlearningConfig
from fdiv_jax.unlearning.foresight import Foresight


@pytest.mark.slow
def test_the_command_prints_json_and_needs_no_weights(capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(asset_directory("fashion"), model, ignore=shutil.ignore_patterns("*.safetensors"))
    words = ["--topology", "h100:2", "--batch", "8", "--no-largest", "--cache", str(tmp_path / "cache")]
    assert cli.main(["plan", str(model), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["from"], told["batch"], told["steps"]) == ("model", 8, 500)
    assert told["chip_hours"] == pytest.approx(500 * told["seconds"]["step"] * told["chips"] / 3600)
    assert told["images_per_second"] == pytest.approx(8 / told["seconds"]["step"])
    asked = UnlearningConfig(target="sneaker", batch_size=8)
    seen = Foresight(load_pipeline("fashion"), asked, topology_of("h100:2")).cost(8)
    assert told["a chip"] == json.loads(json.dumps(dataclasses.asdict(seen)))
