"""A process whose forks unlearn on a tiny model, to be killed: `python real_run.py`.

Each line on its standard input is a job, a JSON object with `config`, `output`, `place` (a directory of the
compiled functions and the anchor images) and `log` (a file for standard error); the answer is the process id
of the fork that does it. Or it is `{"wait": process id}`, and the answer, when that fork has ended or
stopped, is its exit status, or 128 + the signal. All of the imports are done once, before any fork, and
nothing of them starts JAX's backend.

A job with `divergences` is a sweep of these; one with `dies_in` kills itself when it is about to move the
first file or directory whose name matches that regular expression to its place; one with `at`, a step and a
signal, sends itself that signal when the step is in the metrics. Nothing depends on how fast the machine is.
"""

import json
import os
import re
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
    if "dies_in" in job:
        die_in(job["dies_in"])
    if "at" in job:
        signal_at(*job["at"])
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


def die_in(name):
    """SIGKILL when what is written under this name is whole, but still under its temporary name."""
    settle = atomic._settle

    def settle_or_die(directory):
        settle(directory)
        if re.fullmatch(name, atomic.LEFTOVER.fullmatch(directory.name)["name"]):
            os.kill(os.getpid(), signal.SIGKILL)

    atomic._settle = settle_or_die


def signal_at(step, number):
    """Send this process a signal when the row of this step is written."""
    log = RunDirectory.log

    def log_and_signal(self, row):
        log(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), number)

    RunDirectory.log = log_and_signal


def serve():
    """Fork at each job; answer how a fork ended where that is asked. Forks that are left over are killed."""
    running = set()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            status = os.waitpid(job["wait"], os.WUNTRACED)[1]
            if os.WIFSTOPPED(status):
                print(128 + os.WSTOPSIG(status), flush=True)
                continue
            running.discard(job["wait"])
            status = os.waitstatus_to_exitcode(status)
            print(128 - status if status < 0 else status, flush=True)
            continue
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
        running.add(process)
        print(process, flush=True)
    for process in running:
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    import jax

    from fdiv_jax.checkpoints import atomic
    from fdiv_jax.unlearning import Preempted, UnlearningConfig, cells_of, sweep, unlearn
    from fdiv_jax.unlearning.run_directory import RunDirectory
    from tests.tiny import tiny_pipeline

    serve()
