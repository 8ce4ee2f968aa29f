"""Theory against measurement: `python -m analysis.convergence` writes paper_figures/.

Installed it is `fdiv_jax.analysis`, and `fdiv-jax reproduce` runs it; modules import each other by relative
names, so that one source serves both.

Each part of the analysis is one module under `analysis.parts` with a function `run(context) -> dict`; the
list of parts is `analysis.parts.PARTS`. See `analysis.runner` for what a part may rely on and how to add
one.
"""
