"""Trains the specimen, in a folder that holds its checkpoints, its watch and its scalars."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Literal, Protocol

from model import checkpoint
from model.checkpoint import Checkpoint, Position
from model.evaluate import Scores, evaluate, share
from model.interrupt import Interrupt, noted_interrupt
from model.losses import loss
from model.network import build
from model.optimise import clipped, optimizer, schedule
from model.order import batches, split, steps_per_epoch
from model.read import Corpus, Interaction
from model.scalars import scalars
from model.start import Start
from nan_watch import NanWatch
from probes.batch import to_device
from probes.errors import RequestError
from probes.record import Recorder
from probes.seeding import seed_everything

KEPT = 3  # checkpoints of a run, the newest ones


@dataclass(frozen=True, slots=True)
class Habits:
    """What changes nothing about the training of a healthy run.

    save_every, measure_every: steps between two checkpoints, and between two measures of the
    batch just trained on; 0: none. on_poison: as of NanWatch.
    """

    save_every: int = 500
    measure_every: int = 50
    on_poison: Literal["raise", "skip", "allow"] = "raise"


class Listener(Protocol):
    """Hears of every step; a progress bar is one."""

    def step(self, position: Position, steps: int, loss: float) -> None:
        """One more of so many steps is done."""

    def measured(self, position: Position, name: str, scores: Scores) -> None:
        """`batch` (the one just trained on), `training` or `validation` was measured."""


class Trainer:
    """A run of the specimen: new, or the one that a checkpoint holds, from where it stood."""

    def __init__(
        self,
        start: Start,
        corpus: Corpus,
        device: str,
        listener: Listener,
        habits: Habits,
    ) -> None:
        self.start, self.config, resumed = start, start.config, start.resumed
        self.device, self.listener, self.habits = device, listener, habits
        self.split = split(self.config, corpus.interactions)
        self.position = Position()
        self._begun, self._spent = time.process_time(), 0.0
        self.interrupted = False
        self._recorder: Recorder | None = None
        seed_everything(self.config.seed)
        words = resumed.about["words"] if resumed else None
        self.model = build(self.config, corpus, start.faults, words).to(device)
        self.optimizer = optimizer(self.config, self.model)
        self.schedule = schedule(self.config, self.optimizer)
        if resumed:
            self._resume(resumed)

    def train(self, run: Path) -> Path:
        """Every step is done, or those before Ctrl-C; returns the checkpoint.

        Raises PoisonedStep where the watch refuses a step: the weights are those before it.
        """
        self._begun = time.process_time()
        self.run, self.scalars = run, scalars(run, self.position.step)
        with closing(self.scalars), noted_interrupt() as interrupt:
            self._loop(interrupt)
            self.interrupted = self.position.step < self.config.steps
            if not self.interrupted:
                self._measure_all()
        return self.save()

    def _loop(self, interrupt: Interrupt) -> None:
        """The steps that are left are done; the `with` is where the watch comes in."""
        model, optimizer, habits = self.model.train(), self.optimizer, self.habits
        clipping, folder = clipped(self.config, model), self._watch_folder()
        with NanWatch(model, optimizer, on_poison=habits.on_poison, out=folder) as watch:
            self._recorder = watch.recorder
            for interactions in self._steps():
                batch = to_device(model.collate(interactions), self.device)
                optimizer.zero_grad()
                watch.backward(loss(model, batch))
                if clipping:
                    watch.clip_grad_norm_(self.config.clip_norm, clipping)
                optimizer.step()
                self.schedule.step()
                self._after_step(watch.loss, interactions)
                if interrupt.asked:
                    break
        self._recorder = None

    def save(self) -> Path:
        """The whole state of training is in the run folder; returns the checkpoint."""
        words = self.model.collate.vocabulary.words() if self.config.encoder == "small" else None
        about = {
            "config": asdict(self.config),
            "faults": asdict(self.start.faults),
            "source": asdict(self.start.source),
            "words": words,
            "trained_on": digest(self.split.training),
            "seconds": round(self._spent + time.process_time() - self._begun, 1),
        }
        state = (self.model, self.optimizer, self.schedule)
        saved = checkpoint.save(self.run, self.position, *state, about=about)
        checkpoint.prune(self.run, KEPT)
        return saved

    def measure(self, name: str, interactions: Sequence[Interaction]) -> Scores:
        """Every accuracy of the interactions, told to the listener and to TensorBoard."""
        scores = evaluate(self.model, interactions, self.device)
        self.listener.measured(self.position, name, scores)
        if self._recorder is not None and name == "validation":
            step = self.position.step - 1
            hits = {each: float(ratio.hits) for each, ratio in scores.items()}
            counts = {each: float(ratio.count) for each, ratio in scores.items()}
            self._recorder.values(step, "metric", "hits", hits)
            self._recorder.values(step, "metric", "count", counts)
        numbers = {f"{each}/{name}": share(ratio) for each, ratio in scores.items()}
        self.scalars.add(self.position.step, numbers)
        return scores

    def _measure_all(self) -> None:
        self.measure("training", self.split.training)
        if self.split.validation:
            self.measure("validation", self.split.validation)

    def _steps(self) -> Iterator[list[Interaction]]:
        """The steps that are left, from the position in the epoch on, as interactions."""
        while self.position.step < self.config.steps:
            size = self.model.collate.size
            epoch = batches(self.config, self.split.training, self.position.epoch, size)
            for interactions in epoch[self.position.taken :]:
                if self.position.step == self.config.steps:
                    return
                yield interactions

    def _after_step(self, loss: float | None, interactions: Sequence[Interaction]) -> None:
        step, epoch, taken = astuple(self.position)
        ended = taken + 1 == steps_per_epoch(self.config, len(self.split.training))
        self.position = Position(step + 1, epoch + ended, 0 if ended else taken + 1)
        numbers = {"loss": loss if loss is not None else float("nan")}
        numbers |= {f"lr/{i}": float(rate) for i, rate in enumerate(self.schedule.get_last_lr())}
        self.scalars.add(step, numbers)
        self.listener.step(self.position, self.config.steps, numbers["loss"])
        if due(self.habits.measure_every, step + 1):
            self.measure("batch", interactions)
        if ended and self.split.validation:
            self.measure("validation", self.split.validation)
        if due(self.habits.save_every, step + 1):
            self.save()

    def _watch_folder(self) -> Path:
        """A folder of the run that is not there yet, called after the step it begins at."""
        name = f"watch-{self.position.step:06d}"
        taken = len(list(self.run.glob(f"{name}*")))
        return self.run / (f"{name}-{taken + 1}" if taken else name)

    def _resume(self, resumed: Checkpoint) -> None:
        self._check_data(resumed)
        self.position = resumed.position
        self._spent = float(resumed.about.get("seconds", 0.0))
        resumed.load_model(self.model)
        resumed.load_training(self.optimizer, self.schedule)

    def _check_data(self, resumed: Checkpoint) -> None:
        if resumed.about["trained_on"] != digest(self.split.training):
            raise RequestError(
                f"`{resumed.folder}` was trained on other interactions than the "
                f"{len(self.split.training)} that the data and the settings give now: resuming "
                "goes on to the bit only with the same; give the same `--data` and settings"
            )


def digest(interactions: Sequence[Interaction]) -> str:
    """The same for the same interactions alone: 16 hexadecimal digits."""
    return hashlib.sha256(repr(interactions).encode()).hexdigest()[:16]


def due(every: int, step: int) -> bool:
    """Whether this is a step at which something is done that is done every so many steps."""
    return every > 0 and step % every == 0
