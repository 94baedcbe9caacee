"""Trains the specimen, in a folder that holds its checkpoints, its watch and its scalars."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from model import checkpoint
from model.checkpoint import Checkpoint, Position
from model.config import Config
from model.evaluate import Scores, evaluate, share
from model.faults import Faults
from model.interrupt import noted_interrupt
from model.losses import loss
from model.network import build
from model.optimise import clipped, optimizer, schedule
from model.order import batches, split, steps_per_epoch
from model.read import Corpus, Interaction
from model.scalars import scalars
from nan_watch import NanWatch, PoisonedStep
from probes.batch import to_device
from probes.errors import RequestError
from probes.seeding import seed_everything

KEPT = 3  # checkpoints of a run, the newest ones


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    about: what else the checkpoints are to say, as JSON. save_every, measure_every: steps between
    two checkpoints, and between two measures of the training batch; 0: none but at the end.
    """

    config: Config
    faults: Faults
    corpus: Corpus
    run: Path
    device: str = "cpu"
    on_poison: Literal["raise", "skip", "allow"] = "raise"
    save_every: int = 500
    measure_every: int = 50
    about: dict[str, Any] = field(default_factory=dict)


class Listener(Protocol):
    """Hears of every step; a progress bar is one."""

    def step(self, position: Position, loss: float) -> None:
        """One more step is done."""

    def measured(self, position: Position, name: str, scores: Scores) -> None:
        """`batch` (the one just trained on), `training` or `validation` was measured."""


class Trainer:
    """A run of the specimen: new, or the one that a checkpoint holds, from where it stood."""

    def __init__(self, plan: Plan, listener: Listener, resumed: Checkpoint | None = None) -> None:
        self.plan = plan
        self.config = config = plan.config
        self.listener = listener
        self.split = split(config, plan.corpus.interactions)
        seed_everything(config.seed)
        words = resumed.about["words"] if resumed else None
        self.model = build(config, plan.corpus, plan.faults, words)
        self.model.to(plan.device)
        self.optimizer = optimizer(config, self.model)
        self.schedule = schedule(config, self.optimizer)
        self.position = resumed.position if resumed else Position()
        if resumed:
            self._check_data(resumed)
            resumed.load_model(self.model)
            resumed.load_training(self.optimizer, self.schedule)
        self.scalars = scalars(plan.run, self.position.step)

    def train(self) -> Path:
        """Every step is done, or those before Ctrl-C; returns the checkpoint that was saved.

        Raises PoisonedStep, the state before that step saved, where the watch refuses one.
        """
        model, optimizer, clipping = self.model, self.optimizer, clipped(self.config, self.model)
        model.train()
        watch = NanWatch(model, optimizer, on_poison=self.plan.on_poison, out=self._watch_folder())
        try:
            with noted_interrupt() as interrupt, watch:  # here the watch comes in
                for interactions in self._rest():
                    batch = to_device(model.collate(interactions), self.plan.device)
                    optimizer.zero_grad()
                    watch.backward(loss(model, batch))
                    if clipping:
                        watch.clip_grad_norm_(self.config.clip_norm, clipping)
                    optimizer.step()
                    self.schedule.step()
                    self._after_step(watch.loss, interactions)
                    if interrupt.asked:
                        break
        except PoisonedStep:
            self.save()  # the weights are those before the step
            raise
        finally:
            self.scalars.close()
        return self.save()

    def save(self) -> Path:
        """The whole state of training is in the run folder; returns the checkpoint."""
        words = self.model.collate.vocabulary.words() if self.config.encoder == "small" else None
        about = {
            **self.plan.about,
            "config": asdict(self.config),
            "faults": asdict(self.plan.faults),
            "words": words,
            "trained_on": digest(self.split.training),
        }
        state = (self.model, self.optimizer, self.schedule)
        saved = checkpoint.save(self.plan.run, self.position, *state, about=about)
        checkpoint.prune(self.plan.run, KEPT)
        return saved

    def measure(self, name: str, interactions: Sequence[Interaction]) -> Scores:
        """Every accuracy of the interactions, told to the listener and to TensorBoard."""
        scores = evaluate(self.model, interactions, self.plan.device)
        self.listener.measured(self.position, name, scores)
        numbers = {f"{each}/{name}": share(ratio) for each, ratio in scores.items()}
        self.scalars.add(self.position.step, numbers)
        return scores

    def _rest(self) -> Iterator[list[Interaction]]:
        """The steps that are left, from the position in the epoch on, as interactions."""
        while self.position.step < self.config.steps:
            epoch = batches(self.config, self.split.training, self.position.epoch)
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
        self.listener.step(self.position, numbers["loss"])
        if due(self.plan.measure_every, step + 1):
            self.measure("batch", interactions)
        if ended and self.split.validation:
            self.measure("validation", self.split.validation)
        if due(self.plan.save_every, step + 1):
            self.save()

    def _watch_folder(self) -> Path:
        """A folder of the run that is not there yet, called after the step it begins at."""
        name = f"watch-{self.position.step:06d}"
        taken = len(list(self.plan.run.glob(f"{name}*")))
        return self.plan.run / (f"{name}-{taken + 1}" if taken else name)

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
