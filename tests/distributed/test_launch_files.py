"""The files under launch/: they parse, and their commands run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fdiv_jax.cli import main
from tests.tiny import tiny_pipeline

LAUNCH = Path(__file__).parents[2] / "launch"
SETTINGS = {"MODEL": "/shared/model", "TARGET": "van gogh", "OUTPUT": "/shared/runs/one"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


def slurm():
    """The script, and what sbatch reads of it."""
    text = (LAUNCH / "slurm.sh").read_text()
    found = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return text, dict(option.split("=", 1) if "=" in option else (option, "") for option in found)


def jobset():
    """The container's script and variables, and the rest."""
    content = yaml.safe_load((LAUNCH / "gke-jobset.yaml").read_text())
    (job,) = content["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c"]
    (script,) = container["args"]
    return script, {each["name"]: each["value"] for each in container["env"]}, content, job, pod, container


def skypilot():
    """The script and its variables, and the rest."""
    content = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    return content["run"], content["envs"], content


def run(script, settings, place, stub):
    """Run a script in bash with other programs in place of `srun` and `fdiv-jax`."""
    for name, text in {"srun": 'shift; exec "$@"', "fdiv-jax": stub}.items():
        (place / name).write_text(f"#!/bin/bash\n{text}\n")
        (place / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "FDIV"))}
    environment = {**kept, **settings, "PATH": f"{place}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, env=environment, timeout=500
    )


def command(script, settings, place):
    """The arguments that a script gives to `fdiv-jax`, and the environment, one variable a line."""
    done = run(script, settings, place, "printf '%s\\0' \"$@\"; printf '\\1'; env")
    assert done.returncode == 0, done.stderr
    arguments, _, environment = done.stdout.partition("\1")
    return arguments.split("\0")[:-1], environment.splitlines()


def check(arguments, capsys):
    """The command line takes them, and means what the file says."""
    assert main([*arguments, "--print-config"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["target"], config["parallel"], config["batch_size"]) == ("van gogh", "data", 64)
    assert arguments[:2] == ["unlearn", "/shared/model"]
    assert arguments[arguments.index("--output") + 1] == "/shared/runs/one"
    assert "--resume" in arguments


def test_the_slurm_script(tmp_path, capsys):
    script, options = slurm()
    assert options["ntasks-per-node"] == "1"
    assert options["signal"].startswith("TERM@")
    assert "requeue" in options
    arguments, environment = command(script, {**SETTINGS, "SLURM_GPUS_ON_NODE": "4"}, tmp_path)
    assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3" in environment
    assert "--hosts" in arguments
    check(arguments, capsys)
    missing = run(script, {"MODEL": "m", "OUTPUT": "o"}, tmp_path, "exit 0")
    assert missing.returncode
    assert "TARGET" in missing.stderr


def test_the_jobset(tmp_path, capsys):
    script, settings, content, job, pod, container = jobset()
    assert (content["apiVersion"], content["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    hosts = job["template"]["spec"]["parallelism"]
    assert hosts == job["template"]["spec"]["completions"]
    assert hosts * container["resources"]["limits"]["google.com/tpu"] == chips
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert settings["OUTPUT"].startswith(mounts["shared"])
    arguments, _ = command(script, settings, tmp_path)
    assert "--hosts" in arguments
    check(arguments, capsys)


def test_the_skypilot_file(tmp_path, capsys):
    script, settings, content = skypilot()
    known = {"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    assert content["num_nodes"] == 2
    assert any(settings["OUTPUT"].startswith(place) for place in content["file_mounts"])
    arguments, environment = command(script, {**settings, **known}, tmp_path)
    for line in ("COORDINATOR=10.0.0.5:8476", "PROCESSES=2", "PROCESS=1"):
        assert f"FDIV_JAX_{line}" in environment
    check(arguments, capsys)


@pytest.mark.slow
def test_a_slurm_job_of_one_process(tmp_path):
    """The real command, in what JAX takes for a Slurm job."""
    model = tiny_pipeline().save(tmp_path / "tiny")
    stub = (
        f'exec {sys.executable} -W ignore -m fdiv_jax.cli "$@" --steps 2 --images.number 8 --images.steps 1'
    )
    settings = {
        **SLURM,
        "MODEL": str(model),
        "TARGET": "sneaker",
        "OUTPUT": str(tmp_path / "out"),
        "BATCH_SIZE": "8",
        "JAX_NUM_CPU_DEVICES": "1",
        "FDIV_JAX_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(LAUNCH.parent),
    }
    done = run(slurm()[0], settings, tmp_path, stub)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2
