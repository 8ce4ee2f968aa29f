"""A process whose forks unlearn on a tiny model, to be killed: `python real_run.py`.

Each line on its standard input is a job, a JSON object with `config`, `output`, `place` (a directory of the
compiled functions and the anchor images) and `log` (a file for standard error). The fork's process id is the
answer, and when it has ended, its exit status (128 + the signal that ended it). All of the imports are done
once, before any fork, and nothing of them starts JAX's backend.

A job with `divergences` is a sweep of these; one with `dies_at` kills itself when it is about to move a file
or directory to its place for the so many-th time, from 1 on.
"""

import json
import os
import signal
import sys
import traceback


def work(job):
    """Begin the run, or go on with it; returns the exit status."""
    jax.config.update("jax_compilation_cache_dir", job["place"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    config = UnlearningConfig.from_dict(job["config"])
    options = {"checkpoint_every": 3, **job.get("options", {})}
    cache = os.path.join(job["place"], "images")
    if "dies_at" in job:
        die_at(job["dies_at"])
    common = {"resume": True, "progress": False, "cache": cache}
    try:
        if "divergences" in job:
            cells = cells_of(config, job["divergences"])
            sweep(tiny_pipeline(), cells, job["output"], score=lambda *_: {"figure": 1.0}, **common)
        else:
            unlearn(tiny_pipeline(), config, job["output"], **common, **options)
    except Preempted as stop:
        return stop.exit_code
    return 0


def die_at(number):
    """SIGKILL when what is written is whole, but still under its temporary name, for the so many-th time."""
    settle, count = atomic._settle, iter(range(1, number + 1))

    def settle_or_die(directory):
        settle(directory)
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    atomic._settle = settle_or_die


def serve():
    """Fork at each line."""
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            status = 1
            try:
                with open(job["log"], "w") as log:
                    os.dup2(log.fileno(), 2)
                status = work(job)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(process, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(128 - status if status < 0 else status, flush=True)


if __name__ == "__main__":
    import jax

    from fdiv_jax.checkpoints import atomic
    from fdiv_jax.unlearning import Preempted, UnlearningConfig, cells_of, sweep, unlearn
    from tests.tiny import tiny_pipeline

    serve()
