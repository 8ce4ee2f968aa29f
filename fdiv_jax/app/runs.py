"""The tab Unlearn without its page: a request in, what is known of its run out, again and again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fdiv_jax.app.links import LONGEST
from fdiv_jax.app.turns import Turns
from fdiv_jax.unlearning import Watch

if TYPE_CHECKING:
    from fdiv_jax.pipeline import TextToImagePipeline
    from fdiv_jax.unlearning import UnlearningConfig, UnlearningResult
    from fdiv_jax.unlearning.result import Row
    from fdiv_jax.worlds import Judge
    from fdiv_jax.worlds.erasure_scores import ErasureCounts

__all__ = ["ANCHORS", "MOST_STEPS", "Request", "Sight", "Studio", "targets"]

ANCHORS = ("near", "superclass", "empty")
MOST_STEPS = 150
THREAD = "fdiv-jax run"
"""Name of the thread of a run."""
_LONGEST_RUN = 600.0
"""Seconds after which a run is ended."""
_UNSEEN = 60.0
"""Seconds after which a run that nobody looks at any more is ended."""
_KEPT = 12
"""Runs whose files are kept."""
_LOOKS = 8
"""Times that the images of a run are drawn."""
_BATCH, _RANK, _RATE, _IMAGES = 8, 8, 4e-3, 40

Phase = Literal["waiting", "starting", "learning", "judging", "done", "stopped", "refused"]


def targets() -> list[str]:
    """What can be unlearned: the items and the styles of the world."""
    from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES

    return [*ITEM_NAMES, *STYLE_NAMES]


@dataclass(frozen=True)
class Request:
    """What to unlearn and how."""

    target: str
    anchor: str
    divergence: str
    steps: int
    seed: int = 0

    def config(self) -> UnlearningConfig:
        """The configuration of the run: a LoRA of to_k and to_v, with few anchor images.

        Raises:
            ValueError: what the library, or the page with its limits, refuses.
        """
        from fdiv_jax.divergences import divergence
        from fdiv_jax.unlearning import AnchorImagesConfig, LoraConfig, UnlearningConfig

        if self.target not in targets():
            raise ValueError(f"target {self.target!r}, expected one of {', '.join(targets())}")
        if self.anchor not in ANCHORS:
            raise ValueError(f"anchor {self.anchor!r}, expected one of {', '.join(ANCHORS)}")
        if len(self.divergence) > LONGEST:
            raise ValueError(f"a divergence of {len(self.divergence)} characters, expected at most {LONGEST}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"{self.steps} steps, expected 1 to {MOST_STEPS}")
        d = divergence(self.divergence)
        return UnlearningConfig(
            target=self.target,
            anchor=self.anchor,
            divergence=self.divergence,
            loss="exact" if d.closed_form is None else "closed",
            steps=self.steps,
            seed=self.seed,
            batch_size=_BATCH,
            learning_rate=_RATE,
            lora=LoraConfig(rank=_RANK),
            images=AnchorImagesConfig(number=_IMAGES, sampler="dpmsolver++", steps=12, guidance=3.0),
        )


@dataclass(frozen=True)
class Sight:
    """What is known of a run.

    Attributes:
        phase: where it is.
        message: that in words.
        m: of each step so far.
        total: steps in all.
        prompts: at which images are drawn; the first `shown` of them show the target.
        before: uint8, (prompts, h, w, 3), of the frozen model; None: not drawn yet.
        now: the same noise with the model as it is.
        at: the step at which `now` was drawn.
        counts: what the judge counted before and after; None: not yet.
        files: to download.
    """

    phase: Phase
    message: str = ""
    m: tuple[float, ...] = ()
    total: int = 0
    prompts: tuple[str, ...] = ()
    shown: int = 0
    before: np.ndarray | None = None
    now: np.ndarray | None = None
    at: int = 0
    counts: tuple[ErasureCounts, ErasureCounts] | None = None
    files: tuple[Path, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.phase in ("done", "stopped", "refused")


class Studio:
    """Where runs are made, one at a time."""

    def __init__(self, home: Path, waiting: int = 8):
        """home: an own directory for the files of the runs; waiting: how many may be asked for at once."""
        self._home, self._turns = home, Turns(waiting)
        self._work: _Work | None = None
        self._closed = threading.Event()

    def close(self, patience: float = 30.0) -> None:
        """End the run that goes on, and wait for it, `patience` seconds at most; no other one begins."""
        self._closed.set()
        if self._work is not None:
            self._work.end(patience)

    def run(self, request: Request, stop: threading.Event) -> Iterator[Sight]:
        """Wait for the turn, unlearn, judge; it ends early when `stop` is set or the iterator is closed."""
        try:
            config = request.config()
            ticket = self._turns.enter()
        except (ValueError, NotImplementedError, RuntimeError) as error:
            yield Sight("refused", " ".join(str(error).split()))
            return
        work = _Work(config, stop, self._home)
        try:
            while (ahead := ticket.ahead) or self._closed.is_set():
                if stop.is_set() or self._closed.is_set():
                    yield Sight("stopped", "Stopped before it began.")
                    return
                line = "One run is" if ahead == 1 else f"{ahead} runs are"
                yield Sight("waiting", f"{line} before yours, which then starts by itself.")
                time.sleep(0.3)
            self._work = work
            work.start(ticket.leave)
            yield from work.sights()
        finally:  # also where the iterator is closed
            stop.set()
            if not work.started:
                ticket.leave()


class _Work:
    """A run in a thread of its own, and what is known of it."""

    def __init__(self, config: UnlearningConfig, stop: threading.Event, home: Path):
        self._config, self._stop, self._home = config, stop, home
        self._told: queue.SimpleQueue[Sight] = queue.SimpleQueue()
        self._sight = Sight("starting", "Drawing the frozen model's images …", total=config.steps)
        self._seen = self._began = time.monotonic()
        self.started = False
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._then: Callable[[], None] = lambda: None

    def end(self, patience: float) -> None:
        """Stop, and wait for the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def start(self, then: Callable[[], None]) -> None:
        """Begin; `then` is called when the thread ends."""
        self.started, self._then = True, then
        self._seen = self._began = time.monotonic()
        self._thread.start()

    def sights(self) -> Iterator[Sight]:
        """What is known, whenever something new is, to the end."""
        sight = self._sight
        yield sight
        while not sight.ended:
            with contextlib.suppress(queue.Empty):
                sight = self._told.get(timeout=0.5)
                while not sight.ended:  # the newest
                    sight = self._told.get_nowait()
            self._seen = time.monotonic()
            yield sight

    def tell(self, **changes: Any) -> None:
        """Something new is known."""
        self._sight = dataclasses.replace(self._sight, **changes)
        self._told.put(self._sight)

    @property
    def sight(self) -> Sight:
        """What is known now."""
        return self._sight

    def draw(self, pipe: TextToImagePipeline) -> np.ndarray:
        """The images at the prompts, from the same noise every time."""
        return _draw(pipe, self._sight.prompts)

    def _over(self) -> bool:
        """Whether to end: asked to, too long, or nobody looks any more."""
        now = time.monotonic()
        return self._stop.is_set() or now - self._seen > _UNSEEN or now - self._began > _LONGEST_RUN

    def _run(self) -> None:
        from fdiv_jax.unlearning.preemption import Preempted

        try:
            self._unlearn()
        except Preempted:
            self.tell(phase="stopped", message="Stopped.")
        except (ValueError, TypeError, NotImplementedError, OSError, MemoryError) as error:
            self.tell(phase="refused", message=" ".join(str(error).split()) or type(error).__name__)
        except BaseException:
            self.tell(phase="refused", message="The run failed; the server's log says how.")
            raise
        finally:
            self._then()

    def _unlearn(self) -> None:
        from fdiv_jax.unlearning import unlearn

        pipe, target = _pipeline(), self._config.target
        prompts, shown = _prompts(target)
        self.tell(prompts=prompts, shown=shown)
        before = _draw(pipe, prompts)
        self.tell(before=before, now=before, message="Drawing the anchor images …")
        directory = _new_directory(self._home)
        output = directory / "run"
        result = unlearn(
            pipe,
            self._config,
            output,
            progress=False,
            cache=self._home / "anchors",
            checkpoint_every=0,
            observers=lambda _: [_Live(self, self._config.steps)],
            stop=self._over,
        )
        self.tell(phase="judging", message="Drawing images for the judge …")
        counts = _counts(target), _counted(result.pipeline, target)
        files = _files(result, output, directory, counts)
        outcome = result.outcome
        warning = outcome.warning if outcome is not None else ""
        self.tell(phase="done", message=warning, counts=counts, files=files)


class _Live(Watch):
    """Tells the figures of every step, and shows the images of some."""

    def __init__(self, work: _Work, steps: int):
        super().__init__(max(1, steps // _LOOKS), steps)
        self._work = work

    def row(self, row: Row) -> None:
        """m of the step."""
        m = (*self._work.sight.m, float(row["m"]))
        self._work.tell(phase="learning", m=m, message=f"Step {len(m)} of {self._work.sight.total}")

    def model(self, done: int, pipeline: Callable[[], TextToImagePipeline]) -> None:
        """The images of the model as it is."""
        if done:
            self._work.tell(now=self._work.draw(pipeline()), at=done)


@functools.cache
def _pipeline() -> TextToImagePipeline:
    from fdiv_jax.pipeline import load_pipeline

    return load_pipeline("fashion")


@functools.cache
def _judge() -> Judge:
    from fdiv_jax.worlds import load_judge

    return load_judge()


def _draw(pipe: TextToImagePipeline, prompts: Sequence[str]) -> np.ndarray:
    return pipe(list(prompts), seed=list(range(len(prompts))), steps=12, guidance=3.0, sampler="dpmsolver++")


def _counted(pipe: TextToImagePipeline, target: str) -> ErasureCounts:
    from fdiv_jax.worlds.erasure_scores import erasure_counts

    return erasure_counts(pipe, _judge(), [target])


@functools.cache
def _counts(target: str) -> ErasureCounts:
    """Of the frozen model."""
    return _counted(_pipeline(), target)


def _prompts(target: str) -> tuple[tuple[str, ...], int]:
    """Five prompts that show the target, five that do not, and how many show it."""
    from fdiv_jax.worlds import ITEM_NAMES, STYLE_NAMES, caption

    number = len(STYLE_NAMES)
    if target in STYLE_NAMES:
        items, others = ITEM_NAMES[5 : 5 + number], [style for style in STYLE_NAMES if style != target]
        own = [caption(item, target) for item in items]
        rest = [caption(item, others[i % len(others)]) for i, item in enumerate(items)]
    else:
        items = [name for name in reversed(ITEM_NAMES) if name != target][:number]
        own = [caption(target, style) for style in STYLE_NAMES]
        rest = [caption(item, style) for item, style in zip(items, STYLE_NAMES, strict=True)]
    return (*own, *rest), len(own)


def _new_directory(home: Path) -> Path:
    """A directory for the files of a run; the oldest ones make room."""
    home.mkdir(parents=True, exist_ok=True)
    there = sorted(home.glob("run-*"), key=lambda path: path.stat().st_mtime)
    for path in there[: max(0, len(there) - _KEPT + 1)]:
        shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=home))


def _files(
    result: UnlearningResult, output: Path, directory: Path, counts: tuple[ErasureCounts, ErasureCounts]
) -> tuple[Path, ...]:
    """The LoRA in both layouts and result.json; what else the run has written is removed."""
    from fdiv_jax.checkpoints import save_lora
    from fdiv_jax.unlearning.result import RESULT, record
    from fdiv_jax.unlearning.trainable import LowRank

    assert isinstance(result.trainable, LowRank)
    record(output, judged={"before": counts[0]._asdict(), "after": counts[1]._asdict()})
    config = result.config
    name = f"{config.target}-to-{config.anchor}".replace(" ", "-")
    lora = {"unet": result.trainable.lora(result.learned)}
    files = [directory / f"{name}-{layout}.safetensors" for layout in ("kohya", "diffusers")]
    save_lora(files[0], lora, layout="kohya", unet_config=result.pipeline.unet.config)
    save_lora(files[1], lora)
    shutil.copy(output / RESULT, directory / RESULT)
    shutil.rmtree(output, ignore_errors=True)
    return (*files, directory / RESULT)
