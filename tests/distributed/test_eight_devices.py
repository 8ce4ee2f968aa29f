"""Eight virtual devices: the same losses whatever the number of devices, and what they send and hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told():
    """What a process with eight devices prints."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("eight_devices.py"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=550)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_losses_of_twenty_steps_do_not_depend_on_the_devices(told):
    losses = told["losses"]
    assert set(losses) == {f"{way} {count}" for way in ("pmap", "data", "fsdp") for count in (1, 2, 4, 8)}
    one = losses["pmap 1"]
    assert len(one) == 20
    assert one[-1] < one[0]
    for name, found in losses.items():
        np.testing.assert_allclose(found, one, rtol=2e-6, err_msg=name)


@pytest.mark.slow
def test_the_gradient_of_what_learns_is_all_that_is_reduced(told):
    for name in ("data", "fsdp"):
        sent = told[name]["collectives"]
        assert sent["all-reduce"] + sent["reduce-scatter"] == pytest.approx(told[name]["trained"], rel=0.05)
        assert sent["all-to-all"] == sent["collective-permute"] == 0
    assert told["data"]["collectives"]["all-gather"] == 0


@pytest.mark.slow
def test_sharded_weights_are_held_once_by_all_devices_together(told):
    """A device holds an eighth of the weights, its activations, and the layers at work."""
    copied, sharded = told["data"], told["fsdp"]
    activations = copied["temporaries"]
    bound = 1.15 * (sharded["frozen"] / 8 + activations)
    assert sharded["arguments"] + sharded["temporaries"] <= bound
    assert copied["frozen"] + activations > bound  # copies would not fit
