"""The parts of the analysis, in the order they run. To add one: a module with `run(context)`, a line here."""

from ..part import Part

__all__ = ["PARTS"]

_WORLD = ("fdiv_jax/assets/fashion/**/*", "fdiv_jax/assets/fashion_judge/*")

PARTS = (
    Part("generators", f"{__name__}.generators", "generators, conjugates and curvature", seconds=(6, 6)),
    Part("weights", f"{__name__}.weights", "what each divergence does to the MSE gradient", seconds=(3, 3)),
    Part(
        "spectra",
        f"{__name__}.spectra",
        "the game's Jacobian: predicted roots and automatic differentiation",
        seconds=(18, 8),
    ),
    Part("rates", f"{__name__}.rates", "convergence rates: predicted and simulated", seconds=(14, 8)),
    Part(
        "steps", f"{__name__}.steps", "discrete steps: rate per iteration and stable range", seconds=(15, 6)
    ),
    Part("phases", f"{__name__}.phases", "which divergence is fastest: phase diagram", seconds=(32, 10)),
    Part("real_game", f"{__name__}.real_game", "the min-max game on a real UNet", _WORLD, seconds=(442, 60)),
    Part(
        "gradients",
        f"{__name__}.gradients",
        "gradient norms along real unlearning",
        _WORLD,
        seconds=(124, 20),
    ),
    Part("erasure", f"{__name__}.erasure", "before and after, by divergence", _WORLD, seconds=(84, 20)),
    Part("anchors", f"{__name__}.anchors", "anchors compared", _WORLD, seconds=(207, 20)),
    Part(
        "interference",
        f"{__name__}.interference",
        "who gets hurt: damage to other concepts, predicted and measured",
        _WORLD,
        seconds=(700, 60),
        long=True,
    ),
    Part(
        "verdicts",
        f"{__name__}.verdicts",
        "the paper's claims about formulas and anchors, over eight seeds",
        _WORLD,
        seconds=(1000, 60),
        long=True,
    ),
    Part(
        "game_verdicts",
        f"{__name__}.game_verdicts",
        "the min-max game over eight seeds: the paper's claims, and the order of nine divergences",
        _WORLD,
        seconds=(1500, 90),
        long=True,
    ),
    Part(
        "real_spectrum",
        f"{__name__}.real_spectrum",
        "the training step's spectrum on a real UNet",
        _WORLD,
        seconds=(1100, 90),
        long=True,
    ),
    Part(
        "regimes",
        f"{__name__}.regimes",
        "the clock of descent: every divergence predicted from the kl run",
        _WORLD,
        seconds=(345, 50),
        long=True,
    ),
    Part(
        "served",
        f"{__name__}.served",
        "who is served first: the distribution of m at equal mean m",
        _WORLD,
        seconds=(150, 40),
        long=True,
    ),
    Part(
        "plateau",
        f"{__name__}.plateau",
        "where minibatch noise lets m rest, predicted and measured",
        _WORLD,
        seconds=(300, 60),
        long=True,
    ),
    Part(
        "advice",
        f"{__name__}.advice",
        "the advised setting against an exhaustive sweep",
        _WORLD,
        seconds=(1400, 60),
        long=True,
    ),
)
"""In order. Names are what `--only` takes."""
