"""A process whose forks make a run of nothing, to be killed: `python killed_run.py DIRECTORY`.

At each line on its standard input it forks; the fork resumes the run, and the answer is its process id.
"""

import os
import signal
import sys
import time

import numpy as np

STEPS = 300


def state(step):
    """What the run's state is after this step."""
    return {"x": np.random.default_rng(step).standard_normal(1000).astype(np.float32)}


def row(step):
    """What the run's metrics say of this step."""
    return {"step": step, "loss": 1.0 / step, "text": "a line that takes a while to write " * (step % 7)}


def work(directory):
    """Go on to the end from the last checkpoint, with a checkpoint every tenth step."""
    with RunDirectory.open(directory, {"config": {"steps": STEPS}}, resume=True) as run:
        restored = run.restore(state(0))
        for step in range(restored.step + 1 if restored else 1, STEPS + 1):
            time.sleep(0.01)
            run.log(row(step))
            if step % 10 == 0:
                run.save(step, state(step), {})
        run.finish(lambda path: (path / "pipeline").mkdir())


if __name__ == "__main__":
    from fdiv_jax.unlearning.run_directory import RunDirectory

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            work(sys.argv[1])
            os._exit(0)
        print(process, flush=True)
