"""Your own f, from its text to a trained model: what it is, how fast it is, and a run with it.

python examples/own_divergence.py "t*log(t) - (t+1)*log((t+1)/2)" --output runs/own
"""

import argparse
from pathlib import Path

import numpy as np

import fdiv_jax as fj
from fdiv_jax.unlearning import AnchorImagesConfig


def main() -> None:
    """Derive, predict, train, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("generator", help="f(t): convex on t > 0, f(1) = 0")
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--target", default="sneaker")
    parser.add_argument("--anchor", default="near")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()

    # What follows from f alone.
    d = fj.divergence(options.generator)
    print(f"f(t) = {d.generator}, f''(1) = {d.curvature}")
    distances = np.array([0.01, 1.0, 4.0, 8.0])
    print("m       ", *(f"{m:8.3g}" for m in distances))
    print("w_f(m)  ", *(f"{float(d.gaussian_weight(m)):8.3g}" for m in distances))
    for coupling, told in ((2.0, "under-damped"), (0.2, "over-damped")):
        ours, kl = (fj.theory.game_rate(each, damping=1.0, coupling=coupling) for each in (d, "kl"))
        print(f"the game, {told}: rate {ours:.3g}, of kl {kl:.3g}")
    time, of_kl = (fj.theory.descent_time(each, 4.0, 0.4) for each in (d, "kl"))
    print(f"descent from m = 4 to 0.4: {float(time):.3g}, of kl {float(of_kl):.3g} (kernel times time)")

    # The same f in a run: its Gaussian loss, by quadrature where there is no formula.
    pipe = fj.load_pipeline(options.model)
    config = fj.UnlearningConfig(
        target=options.target,
        anchor=options.anchor,
        divergence=options.generator,
        loss="exact",
        steps=options.steps,
        batch_size=options.batch_size,
        images=AnchorImagesConfig(number=options.images),
    )
    result = fj.unlearn(pipe, config)
    outcome = result.outcome
    if outcome is not None:
        print(f"m from {outcome.first:.3g} to {outcome.last:.3g} in {options.steps} steps {outcome.warning}")
    result.save(options.output)
    print(f"{options.output}: the run, with the model in {options.output / 'pipeline'}")


if __name__ == "__main__":
    main()
