"""What the curvature of f says about convergence: descent on the divergence, and the min-max game.

    from fdiv_jax import divergence, theory
    theory.game_rate(divergence("kl"), damping=1.0, coupling=1.0)       # 0.5
    theory.phase_diagram(["kl", "squared_hellinger", "pearson_chi2"], [0.1, 1, 10], [1.0]).winner

theta descends with speed a (`model_step`), omega ascends with speed b (`critic_step`). Every function takes a
Divergence, a catalogue name or an expression in t. Numbers are float64 on the host for any default of JAX;
`mode_rate` and `mode_eigenvalues` also run inside jit.
"""

from fdiv_jax.theory.adaptive import preconditioned, rate_by_curvature
from fdiv_jax.theory.clock import descent_curve, descent_flow, descent_time
from fdiv_jax.theory.descent import (
    DescentReach,
    descent_rate,
    descent_reach,
    descent_smoothness,
    descent_step_limit,
    descent_steps,
)
from fdiv_jax.theory.discrete import Momentum, Scheme, discrete_rate, game_step_limit, update_matrix
from fdiv_jax.theory.interference import (
    QuadraticDistances,
    descent_filter,
    krylov_basis,
    predicted_damage,
    quadratic_descent,
)
from fdiv_jax.theory.jacobian import GameSpectrum, game_jacobian, game_spectrum
from fdiv_jax.theory.modes import mode_eigenvalues, mode_rate
from fdiv_jax.theory.noise import descent_noise, game_noise, stationary_covariance
from fdiv_jax.theory.orbits import DescentFate, descent_fate, descent_orbit
from fdiv_jax.theory.phases import PhaseBoundary, PhaseDiagram, phase_diagram
from fdiv_jax.theory.plateau import Plateau, quadratic_minimum, quadratic_plateau
from fdiv_jax.theory.rates import critical_curvature, damping_ratio, game_rate
from fdiv_jax.theory.served import Served, served_first
from fdiv_jax.theory.shape import Near, gradient_noise, nearest, weight_distance

__all__ = [
    "DescentFate",
    "DescentReach",
    "GameSpectrum",
    "Momentum",
    "Near",
    "PhaseBoundary",
    "PhaseDiagram",
    "Plateau",
    "QuadraticDistances",
    "Scheme",
    "Served",
    "critical_curvature",
    "damping_ratio",
    "descent_curve",
    "descent_fate",
    "descent_filter",
    "descent_flow",
    "descent_noise",
    "descent_orbit",
    "descent_rate",
    "descent_reach",
    "descent_smoothness",
    "descent_step_limit",
    "descent_steps",
    "descent_time",
    "discrete_rate",
    "game_jacobian",
    "game_noise",
    "game_rate",
    "game_spectrum",
    "game_step_limit",
    "gradient_noise",
    "krylov_basis",
    "mode_eigenvalues",
    "mode_rate",
    "nearest",
    "phase_diagram",
    "preconditioned",
    "predicted_damage",
    "quadratic_descent",
    "quadratic_minimum",
    "quadratic_plateau",
    "rate_by_curvature",
    "served_first",
    "stationary_covariance",
    "update_matrix",
    "weight_distance",
]
