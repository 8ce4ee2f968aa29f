#!/bin/bash
# One process per node, each with all of its node's GPUs:
#   MODEL=/shared/model TARGET="van gogh" OUTPUT=/shared/runs/one sbatch launch/slurm.sh
# OUTPUT must be on a file system that all nodes share. A job that is requeued goes on from its last checkpoint.
#SBATCH --job-name=fdiv-jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

# In a Slurm job JAX gives each process one GPU; here a process drives all those of its node.
if [ -n "${SLURM_GPUS_ON_NODE:-}" ]; then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
    export JAX_LOCAL_DEVICE_IDS
fi

exec srun --kill-on-bad-exit=1 fdiv-jax unlearn "$MODEL" --target "$TARGET" --hosts \
    --parallel "${PARALLEL:-data}" --batch-size "${BATCH_SIZE:-64}" --output "$OUTPUT" --resume
