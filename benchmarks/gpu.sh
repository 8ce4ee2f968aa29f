#!/usr/bin/env bash
# Everything that wants a GPU, in under ten minutes: the step beside PyTorch at full size in bfloat16, the
# implementations of attention, and the fast tests of the networks, the unlearning engine and the divergences on the
# card. Writes benchmarks/results/gpu.json, gpu_attention.json and gpu_tests.txt.
#
#   bash benchmarks/gpu.sh              # in an environment with jax[cuda], PyTorch and diffusers
#   bash benchmarks/gpu.sh WHEELS       # on a machine without a network: first install the wheels of that folder
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
out="${OUT:-benchmarks/results}"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
unset JAX_PLATFORMS

if [ $# -gt 0 ]; then
    site="$(mktemp -d)"
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$1"/*.whl
    export PYTHONPATH="$PWD:$site"
fi
"$python" -c 'import jax, sys; d = jax.devices()[0]; print(d.device_kind, "jax", jax.__version__); sys.exit(d.platform != "gpu")' \
    || { echo "no GPU that JAX can use" >&2; exit 1; }
mkdir -p "$out"

# --loaded: what other processors do is of no concern to the card.
timeout 270 "$python" -m benchmarks.step_time --cases sd14-64 --losses closed --dtype bfloat16 --compiled --rounds 2 \
    --loaded --json "$out/gpu.json" || echo "the step at sd14-64 did not end well: $?"
timeout 100 "$python" -m benchmarks.attention --dtypes bfloat16 --blocks 128 --output "$out/gpu_attention.json" \
    || echo "attention did not end well: $?"
timeout 160 "$python" -m pytest -q -p no:cacheprovider tests/nn tests/divergences tests/unlearning/test_step.py \
    -m "not slow and not interop" -x 2>&1 | tail -15 | tee "$out/gpu_tests.txt"
