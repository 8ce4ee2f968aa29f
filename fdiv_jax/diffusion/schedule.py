"""The noise process, the quantities that a network predicts, and the reverse kernels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fdiv_jax.arrays import AnyTimesteps, Samples
from fdiv_jax.diffusion._betas import betas_from_config, number_of
from fdiv_jax.diffusion._scheduler_classes import process_entries
from fdiv_jax.files import JsonMapping, shown

__all__ = ["NoiseSchedule", "PredictionType", "SolverOptions"]

Coefficients = Float[jax.Array, "..."]
"""Of a shape that multiplies the samples."""
PerTimestep = Float[jax.Array, " batch"] | Float[jax.Array, ""]
"""One number for each timestep."""
PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["leading", "trailing", "linspace"]
Variance = Literal["posterior", "beta"]
Levels = Literal["schedule", "karras", "exponential", "lu", "beta"]


@dataclass(frozen=True)
class SolverOptions:
    """The settings of DPM-Solver++, of Euler's noise levels and of LCM in a configuration; DDIM reads none.

    The name of the sampler says which algorithm runs, so that a file written for another one (DPM-Solver, its
    SDE, DEIS, UniPC) serves as well.
    """

    order: int = 2
    kind: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigma: str = "zero"
    lambda_min_clipped: float = -np.inf
    levels: Levels = "schedule"
    """Where the noise levels are: at the schedule's timesteps, or spread anew between the largest and the
    smallest of them (from `sigma_max` to `sigma_min` where given)."""
    round_timesteps: bool = True
    """Whether DPM-Solver++ rounds the timesteps of Karras' and Lu's levels, or rounds them down (cosine)."""
    sigma_min: float | None = None
    sigma_max: float | None = None
    log_linear: bool = False
    """Whether Euler's noise levels are to be interpolated in log sigma, which is not supported here."""
    original_steps: int = 50
    """Steps at which a latent consistency model was distilled (`original_inference_steps`)."""
    timestep_scaling: float = 10.0
    """Factor on the timesteps in a latent consistency model's boundary conditions."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete variance-preserving diffusion, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, 0 <= t < T.

    abar_t is the running product of alpha_t = 1 - beta_t. The betas are float32, as in training; everything
    derived from them is computed in float64 and cast at the end. Immutable and hashable; as a pytree it has
    no leaves, so that it passes through jit, vmap, pmap and scan as a constant.

    Every method takes arrays of shape (n, ...) with timesteps of shape (n,) or (), int; it broadcasts over
    the trailing axes and keeps the floating dtype of its first argument.

    Raises:
        ValueError: betas outside (0, 1], or a zero signal-to-noise ratio with a network that predicts epsilon
            (x_0 could not be recovered there).

    Source: Ho, Jain, Abbeel, Denoising diffusion probabilistic models, 2020 (DDPM).
    """

    betas: tuple[float, ...]
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing | None = None
    """How a sampler spreads its timesteps; None leaves it to the sampler."""
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    """Whether DDIM's last step ends at abar = 1 or at abar_0."""
    clip_sample_range: float | None = None
    """DDIM clips the predicted x_0 to this range; None: no clipping (right for latents)."""
    solver: SolverOptions = field(default_factory=SolverOptions)

    def __post_init__(self) -> None:
        betas = tuple(float(np.float32(beta)) for beta in self.betas)
        object.__setattr__(self, "betas", betas)
        _one_of("prediction_type", self.prediction_type, get_args(PredictionType))
        if self.timestep_spacing is not None:
            _one_of("timestep_spacing", self.timestep_spacing, get_args(Spacing))
        if len(betas) < 2:
            raise ValueError(f"a schedule has at least 2 timesteps, got {len(betas)} betas")
        if (
            isinstance(self.steps_offset, bool)
            or not isinstance(self.steps_offset, int)
            or not 0 <= self.steps_offset < len(betas)
        ):
            raise ValueError(
                f"steps_offset must be an integer >= 0 and < {len(betas)}, got {shown(self.steps_offset)}"
            )
        if not all(0 < beta <= 1 for beta in betas):
            bad = next(i for i, beta in enumerate(betas) if not 0 < beta <= 1)
            raise ValueError(f"betas must lie in (0, 1], got {betas[bad]} at timestep {bad}")
        if self.clip_sample_range is not None and not self.clip_sample_range > 0:
            raise ValueError(f"clip_sample_range must be positive, got {self.clip_sample_range}")
        if self.prediction_type == "epsilon" and self.alphas_bar[-1] == 0:
            raise ValueError(
                "the schedule ends at zero signal-to-noise ratio, where epsilon says nothing of x_0; "
                "expected prediction_type 'v_prediction' or 'sample'"
            )

    @classmethod
    def from_config(cls, config: JsonMapping) -> "NoiseSchedule":
        """The schedule of a `scheduler_config.json`, whichever variance-preserving sampler it is for.

        Settings of the process that the file leaves out (betas, clipping, last step) take the defaults of the
        class that it names; the spacing of timesteps takes that of diffusers' scheduler for the sampler. A
        file of a scheduler that does not clip the predicted x_0, such as PNDM's, gives no clipping.

        Raises:
            NotImplementedError: a setting that is not supported; names it.
            ValueError: a value out of range.
            TypeError: `config` is not a mapping.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"a scheduler configuration is a mapping, got {type(config).__name__}")
        config = process_entries(config)
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in get_args(PredictionType):
            raise NotImplementedError(
                f"prediction_type {shown(prediction)}; supported: {', '.join(get_args(PredictionType))}"
            )
        clips = config.get("clip_sample", True)
        return cls(
            betas=tuple(betas_from_config(config).tolist()),
            prediction_type=prediction,
            timestep_spacing=config.get("timestep_spacing"),
            steps_offset=config.get("steps_offset", 0),
            set_alpha_to_one=bool(config.get("set_alpha_to_one", True)),
            clip_sample_range=number_of(config, "clip_sample_range", 1.0) if clips else None,
            solver=_solver_options(config),
        )

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.betas)

    @cached_property
    def alphas_bar(self) -> np.ndarray:
        """abar_t for t = 0 .. T - 1: float64 holding float32 values, decreasing, shape (T,)."""
        alphas = (np.float32(1) - np.asarray(self.betas, np.float32)).astype(np.float64)
        return _read_only(np.cumprod(alphas).astype(np.float32).astype(np.float64))

    @cached_property
    def _alphas_bar_before(self) -> np.ndarray:
        return _read_only(np.concatenate([[1.0], self.alphas_bar[:-1]]))

    def coefficients(self, timesteps: AnyTimesteps, like: Samples) -> tuple[Coefficients, Coefficients]:
        """(sqrt(abar_t), sqrt(1 - abar_t)), shaped to multiply `like` (n, ...)."""
        signal, noise = np.sqrt(self.alphas_bar), np.sqrt(1 - self.alphas_bar)
        return _at(signal, timesteps, like), _at(noise, timesteps, like)

    def add_noise(self, x0: Samples, noise: Samples, timesteps: AnyTimesteps) -> Samples:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (DDPM eq. 4)."""
        _same_shape(x0=x0, noise=noise)
        signal, sigma = self.coefficients(timesteps, x0)
        return signal * x0 + sigma * noise

    def velocity(self, x0: Samples, noise: Samples, timesteps: AnyTimesteps) -> Samples:
        """v_t = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans and Ho, Progressive distillation, 2022)."""
        _same_shape(x0=x0, noise=noise)
        signal, sigma = self.coefficients(timesteps, x0)
        return signal * noise - sigma * x0

    def target(self, x0: Samples, noise: Samples, timesteps: AnyTimesteps) -> Samples:
        """The output that the network is trained for at (x_t, t): eps, v_t or x_0, by `prediction_type`."""
        _same_shape(x0=x0, noise=noise)
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        return self.velocity(x0, noise, timesteps)

    def predict_x0(self, x_t: Samples, output: Samples, timesteps: AnyTimesteps) -> Samples:
        """The x_0 that the network's raw `output` at (x_t, t) stands for."""
        _same_shape(x_t=x_t, output=output)
        signal, sigma = self.coefficients(timesteps, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * output) / signal
        if self.prediction_type == "sample":
            return output
        return signal * x_t - sigma * output

    def predict_epsilon(self, x_t: Samples, output: Samples, timesteps: AnyTimesteps) -> Samples:
        """The noise that the network's raw `output` at (x_t, t) stands for."""
        _same_shape(x_t=x_t, output=output)
        if self.prediction_type == "epsilon":
            return output
        signal, sigma = self.coefficients(timesteps, x_t)
        if self.prediction_type == "sample":
            return (x_t - signal * output) / sigma
        return signal * output + sigma * x_t

    def reverse_variance(self, timesteps: AnyTimesteps, variance: Variance = "posterior") -> PerTimestep:
        """The variance s_t^2 of the reverse kernel p(x_{t-1} | x_t), one number per timestep.

        "posterior" is that of q(x_{t-1} | x_t, x_0), beta_t (1 - abar_{t-1}) / (1 - abar_t) (DDPM eq. 7); it
        is zero at t = 0, where the value of t = 1 stands in (Nichol and Dhariwal, 2021). "beta" is beta_t,
        DDPM's other choice.
        """
        return _at(self._reverse_variances(variance), timesteps)

    def kernel_weight(
        self,
        timesteps: AnyTimesteps,
        of: Literal["epsilon", "v_prediction", "sample", "output"] = "epsilon",
        variance: Variance = "posterior",
    ) -> PerTimestep:
        """w_t in m = w_t ||prediction - other||^2, m the squared distance of two reverse kernels over s_t^2.

        Two networks at the same (x_t, t) have the kernels N(mu, s_t^2 I) and N(mu', s_t^2 I) with
        mu = sqrt(abar_{t-1}) beta_t / (1 - abar_t) x_0 + ... (DDPM eq. 7), so m = ||mu - mu'||^2 / s_t^2 is a
        multiple of the squared distance of their predictions. For epsilon, w_t = beta_t^2 / (alpha_t (1 -
        abar_t) s_t^2).

        `of` says which prediction is compared ("output": the network's own type), `variance` which s_t^2
        (see `reverse_variance`). Returns one number per timestep.

        Raises:
            ValueError: epsilon with a schedule that ends at zero signal-to-noise ratio: w_T would be
                infinite.
        """
        kind = self.prediction_type if of == "output" else of
        _one_of("of", kind, get_args(PredictionType))
        if kind == "epsilon" and self.alphas_bar[-1] == 0:
            raise ValueError(
                "w_t of epsilon is infinite at zero signal-to-noise ratio; expected v_prediction or sample"
            )
        abar, before = self.alphas_bar, self._alphas_bar_before
        slope = np.sqrt(before) * (1 - abar / before) / (1 - abar)  # d mu / d x_0
        per_x0 = slope**2 / self._reverse_variances(variance)
        scale = {"sample": 1.0, "v_prediction": 1 - abar}.get(kind)
        if scale is None:
            scale = (1 - abar) / abar
        return _at(per_x0 * scale, timesteps)

    def _reverse_variances(self, variance: str) -> np.ndarray:
        _one_of("variance", variance, get_args(Variance))
        abar, before = self.alphas_bar, self._alphas_bar_before
        beta = 1 - abar / before
        if variance == "beta":
            return beta
        values = beta * (1 - before) / (1 - abar)
        values[0] = values[1]
        return values


_LEVELS: dict[str, Levels] = {
    "use_karras_sigmas": "karras",
    "use_lu_lambdas": "lu",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


def _solver_options(config: JsonMapping) -> SolverOptions:
    """Solver types and orders that DPM-Solver++(2M) does not have become its own, as in diffusers."""
    asked: list[Levels] = [kind for key, kind in _LEVELS.items() if config.get(key)]
    bounds = {
        key: None if config.get(key) is None else number_of(config, key, 0.0)
        for key in ("sigma_min", "sigma_max")
    }
    unclipped = config.get("lambda_min_clipped") in (None, -np.inf)
    return SolverOptions(
        order=1 if config.get("solver_order") == 1 else 2,
        kind="heun" if config.get("solver_type") == "heun" else "midpoint",
        lower_order_final=bool(config.get("lower_order_final", True)),
        euler_at_final=bool(config.get("euler_at_final", False)),
        final_sigma=config.get("final_sigmas_type", "zero"),
        lambda_min_clipped=-np.inf if unclipped else number_of(config, "lambda_min_clipped", 0.0),
        levels=(asked or ["schedule"])[0],
        round_timesteps=config.get("beta_schedule") != "squaredcos_cap_v2",
        **bounds,
        log_linear=config.get("interpolation_type") == "log_linear",
        original_steps=_original_steps(config.get("original_inference_steps")),
        timestep_scaling=number_of(config, "timestep_scaling", 10.0),
    )


def _original_steps(value: object) -> int:
    if value is None:
        return 50
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"original_inference_steps must be a whole number >= 1, got {shown(value)}")
    return value


def _at(table: np.ndarray, timesteps: jax.Array, like: jax.Array | None = None) -> jax.Array:
    """table[timesteps], in the dtype of `like` and with its trailing axes when there is one."""
    steps = jnp.asarray(timesteps)
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise TypeError(f"timesteps must be integers, got {steps.dtype}")
    if like is None:
        return jnp.asarray(table, jnp.result_type(float))[steps]
    if not jnp.issubdtype(like.dtype, jnp.floating):
        raise TypeError(f"expected floating-point arrays, got {like.dtype}")
    if steps.ndim > 1 or (steps.ndim == 1 and (like.ndim < 1 or steps.shape[0] not in (1, like.shape[0]))):
        raise ValueError(f"timesteps must have shape () or ({like.shape[:1] or 'n'},), got {steps.shape}")
    values = jnp.asarray(table, like.dtype)[steps]
    return values.reshape(steps.shape + (1,) * (like.ndim - steps.ndim))


def _same_shape(**arrays: jax.Array) -> None:
    (first, a), (second, b) = arrays.items()
    if jnp.shape(a) != jnp.shape(b):
        raise ValueError(
            f"{first} and {second} must have the same shape, got {jnp.shape(a)} and {jnp.shape(b)}"
        )


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}")


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
