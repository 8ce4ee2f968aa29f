"""One unlearning step of this library beside the same step in PyTorch, each program alone in its process.

    python -m benchmarks.step_time                          # the cases of a CPU: fashion, medium, sd14-32
    python -m benchmarks.step_time --quick --json FILE      # two rounds of fashion and medium
    python -m benchmarks.step_time --cases sd14-64 sd21-64 --dtype bfloat16     # on a GPU

    case -> weights on disk -> one process at a time, ours and PyTorch's in turn -> seconds -> ratios

A step is the frozen network's output at the anchor prompt, the trained network's at the target prompt, the
loss between them, its gradient with respect to attn2.to_k and attn2.to_v, and AdamW: what the published code
does. Both sides read the same weights and the same inputs.

PyTorch's threads spin for a while after each call and slow down whatever runs next in their process, so that
two programs measured in one process disturb each other by more than they differ. Here each has a process of
its own; the processes alternate, and a ratio is of neighbours.
"""
