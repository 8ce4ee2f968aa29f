"""The claims about the min-max game, decided by paired games over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fdiv_jax.files import JsonObject

from ..trials import Laboratory
from ..verdict_page import GAME, Gathered, difference, tell
from ..verdict_runs import FULL, GAMES, QUICK, SETTINGS, Bench

if TYPE_CHECKING:
    from ..runner import Context

__all__ = ["run"]

CLAIMED = ("squared_hellinger", "jensen_shannon")


def run(context: Context) -> JsonObject:
    """Play the games of every seed, then decide."""
    laboratory, work = Laboratory.open(context), QUICK if context.quick else FULL
    bench = Bench(laboratory, work)
    cells = context.cells(range(work.game_seeds), "games", bench.games)
    gathered, ranks = Gathered(), []
    for cell in cells:
        mean = {name: float(np.mean(np.log(cell["m"][name][1:]))) for name in GAMES}
        ranks.append([sorted(mean.values()).index(mean[name]) + 1 for name in CLAIMED])
        for ahead in CLAIMED:
            for behind in set(GAMES) - set(CLAIMED):
                gathered.add("C7", f"{ahead} before {behind}", GAME, mean[ahead] - mean[behind])
        for setting, formula in cell["formula"].items():
            value = difference(cell["seen"], formula, "kid", 1000)
            gathered.add("C6", "higher KID", SETTINGS[setting], value)
    shows = f"The paper's claims about the game (C6, C7), {work.game_seeds} seeds of {work.game_steps} steps."
    count = tell(context, "game_verdicts", ("C6", "C7"), gathered, shows)
    return {
        "game_verdict_measurements": count,
        "game_mean_rank": dict(zip(CLAIMED, np.mean(ranks, axis=0).tolist(), strict=True)),
        "game_share_of_m_left": [cell["share"] for cell in cells],
    }
