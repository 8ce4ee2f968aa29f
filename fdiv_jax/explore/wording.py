"""Facts about tails in words."""

from __future__ import annotations

from fdiv_jax.files import JsonObject


def short(value: float | str | None) -> str:
    """Six digits, "-" for what there is not."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.6g}"


def growth_words(tails: JsonObject) -> str:
    """How w_f(m) grows, by the exponent of its exponential."""
    rate = tails["growth_rate"]
    if rate == "oo":
        return "w_f(m) grows faster than every e^(c m): far samples are pushed without limit"
    if rate > 0:
        return f"w_f(m) grows like e^({rate:.4g} m): far samples are pushed hardest"
    if rate < 0:
        return f"w_f(m) falls like e^({rate:.4g} m): far samples are let go"
    return "w_f(m) neither grows nor falls exponentially, as that of kl"


def pull_words(peak: dict[str, float] | None) -> str:
    """The largest pull w_f(m) sqrt(m) on a sample."""
    if peak is None:
        return "w_f(m) sqrt(m) on a sample grows with its distance, without a largest value"
    where = "at m -> 0" if peak["m"] == 0 else f"at m = {peak['m']:.4g}"
    return f"w_f(m) sqrt(m) on a sample is largest {where}: {peak['pull']:.4g}"


def step_words(step: JsonObject) -> str:
    """The stable steps of direct descent."""
    return (
        f"{short(step['at_minimum'])} at the minimum, {short(step['on_the_way'])} from m = {step['from_m']:g}"
    )
