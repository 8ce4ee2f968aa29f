"""Unlearn one concept with several divergences and seeds, and plot how m falls.

    python examples/sweep_divergences.py fashion --target sneaker --anchor near --output runs/sweep

All runs see the same batches, so differences are the divergences' own. Run it again, and it goes on.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import fdiv_jax as fj
from fdiv_jax.unlearning import AnchorImagesConfig, cells_of

DIVERGENCES = ("kl", "squared_hellinger", "exact:jensen_shannon", "pearson_chi2")


def main() -> None:
    """Make the runs that are missing, then one curve for each divergence, the mean over seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--target", required=True)
    parser.add_argument("--anchor", default="superclass")
    parser.add_argument("--divergences", nargs="+", default=DIVERGENCES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    pipe = fj.load_pipeline(options.model)
    base = fj.UnlearningConfig(
        target=options.target,
        anchor=options.anchor,
        steps=options.steps,
        batch_size=options.batch_size,
        normalise_curvature=True,  # the same first step for all of them
        images=AnchorImagesConfig(number=options.images),
    )
    cells = cells_of(base, options.divergences, seeds=options.seeds)
    rows = fj.sweep(pipe, cells, options.output, resume=options.output.exists())

    curves: dict[str, list[np.ndarray]] = {}
    for row in rows:
        lines = (options.output / row["name"] / "metrics.jsonl").read_text().splitlines()
        curves.setdefault(str(row["divergence"]), []).append(
            np.array([json.loads(line)["m"] for line in lines])
        )
        print(f"{row['name']}: m = {row['final_m']:.4g} at the end")

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, runs in curves.items():
        mean = np.mean(runs, axis=0)
        axes.semilogy(np.arange(1, len(mean) + 1), mean, label=name)
    axes.set(
        xlabel="step", ylabel="m, squared distance to the anchor", title=f"{options.target}, equal f''(1)"
    )
    axes.legend()
    figure.savefig(options.output / "curves.png", dpi=150)
    print(options.output / "curves.png")


if __name__ == "__main__":
    main()
