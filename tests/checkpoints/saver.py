"""A process whose forks save checkpoints, to be killed: `python saver.py`, then lines on its standard input.

A line is a JSON object: `directory`, and `crash`: null, or the number of the call that touches the disk at
which the fork kills itself, in its third save. It answers with the process id of the fork.
"""

import json
import os
import signal
import sys

import ml_dtypes
import numpy as np


def state(step):
    """What a checkpoint of this step must hold."""
    random = np.random.default_rng(step)
    return {
        "weights": random.standard_normal((64, 33)).astype(np.float32),
        "moments": (random.standard_normal(50).astype(ml_dtypes.bfloat16), np.array(step, np.int32)),
        "key": random.integers(0, 2**32, 2, np.uint32),
    }


def metrics(step):
    """The file that goes with it."""
    return b"".join(b'{"step": %d}\n' % k for k in range(1, step + 1))


def crash_at(number):
    """Kill this process at one of the calls that change the disk."""
    count = 0

    def wrap(name):
        function = getattr(os, name)

        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        setattr(os, name, call)

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
        wrap(name)


def work(directory, crash):
    """Save without end, from the last checkpoint on."""
    checkpoints = TrainingCheckpoints(directory)
    restored = checkpoints.restore(state(0))
    start = 0 if restored is None else restored.step
    for step in range(start + 1, start + (4 if crash else 10_000)):
        if crash and step == start + 3:
            crash_at(crash)
        checkpoints.save(step, state(step), {"step": step}, {"metrics.jsonl": metrics(step)})


if __name__ == "__main__":
    from fdiv_jax.checkpoints.training import TrainingCheckpoints

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            work(**json.loads(line))
            os._exit(0)
        print(process, flush=True)
