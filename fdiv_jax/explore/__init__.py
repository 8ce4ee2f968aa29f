"""Everything that follows from one generator, as plain data, as text and as pictures.

The command `fdiv-jax explore` prints it, and the page of `fdiv-jax app` shows it.
"""

from fdiv_jax.explore.game import game_facts
from fdiv_jax.explore.gaussian import distance_facts, gaussian_facts
from fdiv_jax.explore.generator import conjugate_facts, generator_facts
from fdiv_jax.explore.notation import latex, shown
from fdiv_jax.explore.sections import Grid, Line, Section, sections, sections_of
from fdiv_jax.explore.side_by_side import all_facts, comparison, pair_facts

__all__ = [
    "Grid",
    "Line",
    "Section",
    "all_facts",
    "comparison",
    "conjugate_facts",
    "distance_facts",
    "game_facts",
    "gaussian_facts",
    "generator_facts",
    "latex",
    "pair_facts",
    "sections",
    "sections_of",
    "shown",
]
