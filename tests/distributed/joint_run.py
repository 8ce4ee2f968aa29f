"""One process of a run of twenty steps: `python joint_run.py OUTPUT`, started by `launch`, or alone.

With DIES_AT in the environment, the process that does not write kills itself at its checkpoint of that step;
with ENDS_AT it asks itself to end, by SIGTERM, when that step is recorded, and goes slowly from then on,
since JAX tells the processes of it in its own time.
"""

import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    signal.alarm(500)  # the end of a run that hangs
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from fdiv_jax.distributed.hosts import LostProcessError, connected
    from fdiv_jax.unlearning import AnchorImagesConfig, Preempted, UnlearningConfig, unlearn
    from fdiv_jax.unlearning.shared_directory import FollowedDirectory
    from tests.tiny import tiny_pipeline

    jax.config.update("jax_num_cpu_devices", int(os.environ["DEVICES"]))
    jax.config.update("jax_disable_most_optimizations", True)
    output = sys.argv[1]

    def die(directory, step, state, extra):
        if step == int(os.environ["DIES_AT"]):
            Path(f"{output}.died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def end(directory, row):
        if row["step"] == int(os.environ["ENDS_AT"]):
            os.kill(os.getpid(), signal.SIGTERM)
        if row["step"] >= int(os.environ["ENDS_AT"]):
            time.sleep(0.5)

    if "ENDS_AT" in os.environ:
        FollowedDirectory.log = end
    if "DIES_AT" in os.environ:
        FollowedDirectory.save = die
    try:
        with connected():
            config = UnlearningConfig(
                target="sneaker",
                steps=20,
                batch_size=4,
                images=AnchorImagesConfig(number=4, steps=1),
                retained=(),
                learning_rate=1e-2,
                parallel="data",
            )
            unlearn(
                tiny_pipeline(),
                config,
                output,
                cache=os.environ["CACHE"],
                progress=False,
                resume=True,
                checkpoint_every=4,
            )
    except Preempted as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except LostProcessError as error:
        sys.exit(f"lost: {error}")
