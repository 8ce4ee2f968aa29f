"""The history of a run as it grows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from fdiv_jax.unlearning.config import UnlearningConfig
from fdiv_jax.unlearning.data import AnchorData
from fdiv_jax.unlearning.result import DivergedError, History, Row

__all__ = ["Record"]


class Record:
    """One row per step; it stops a run whose numbers are not finite for too many steps in a row."""

    def __init__(self, data: AnchorData, config: UnlearningConfig, warmup: int):
        """`warmup` steps of the critic alone come before those of the model."""
        self._data, self._config, self._warmup = data, config, warmup
        self.rows: list[Row] = []

    def restore(self, rows: Sequence[Row]) -> None:
        """Go on from the rows of earlier steps."""
        self.rows = [dict(row) for row in rows]

    def add(self, index: int, metrics: Mapping[str, np.ndarray]) -> Row:
        """Record the metrics of a step, counted from 0; returns the row."""
        scalars = {name: value.item() for name, value in metrics.items() if np.ndim(value) == 0}
        row = {
            "step": index + 1,
            "warmup": index < self._warmup,
            "loss": scalars.pop("loss"),
            "m": float(np.mean(metrics["m"], dtype=np.float64)),  # saturated values do not overflow the sum
            "m_max": float(np.max(metrics["m"])),
            "weight": float(np.mean(metrics["weight"], dtype=np.float64)),
            **scalars,
        }
        self.rows.append(row)
        return row

    def check(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Check whether the run may go on after its last row.

        Raises:
            DivergedError: that step and those before it, `optimiser.patience` in all, were not finite; or it
                is the last of the run, and the model learned in no more steps than now failed in a row.
        """
        row = self.rows[-1]
        if not row["skipped"]:
            return
        streak = len(list(itertools.takewhile(lambda row: row["skipped"], reversed(self.rows))))
        last = row["step"] == self._warmup + self._config.steps
        learned = sum(not row["skipped"] and not row["warmup"] for row in self.rows)
        if streak < self._config.optimiser.patience and not (last and streak >= learned):
            return
        pairs, images = self._data.choose(self._config.seed, row["step"] - 1, self._config.batch_size)
        finite = np.isfinite(metrics["m"])
        worst = int(np.argmin(finite) if not finite.all() else np.argmax(metrics["m"]))
        prompt = self._data.pairs[pairs[worst]].target
        steps = "step" if streak == 1 else f"{streak} steps in a row were not finite, the last one step"
        raise DivergedError(
            f"{steps} {row['step']}: loss {row['loss']:.6g}, gradient norm {row['gradient_norm']:.6g}, m up "
            f"to {row['m_max']:.6g}; batch: pairs {pairs.tolist()}, images {images.tolist()}, timesteps "
            f"{np.asarray(metrics['timesteps']).tolist()}, worst sample {worst} ({prompt!r}). Stopped; the "
            "last good state is kept. A smaller learning_rate, optimiser.clip_norm, scale 'mean' or a "
            "divergence of bounded weight may help",
            row["step"],
            self.history(),
        )

    def history(self) -> History:
        """The rows as arrays by name."""
        return {name: np.array([row[name] for row in self.rows]) for name in (self.rows or [{}])[0]}
