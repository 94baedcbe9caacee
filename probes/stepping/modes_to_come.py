"""In which mode the model is called, step after step, and after what ends an epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from probes.bus import Bus
from probes.loop import Loop
from probes.replay import Snapshot, replay
from probes.stepping.one_step import Modes, keep_strangers, made, take_step
from probes.subject import Batch, Subject


def ends_epoch(loop: Loop) -> Callable[[], None] | None:
    """What a framework calls as an epoch ends and the next begins; none of a plain subject."""
    end: Callable[[], None] | None = getattr(loop.optimizer, "_whynan_end_epoch", None)
    return end


def modes_to_come(subject: Subject, batch: Batch, epoch: bool) -> list[bool | None]:
    """Whether the whole model was in training mode, in each of two steps; all is undone.

    epoch: what ends an epoch stands between them. None where the model was not called as a whole,
    and nothing says that the step leaves the mode to others.
    Raises ExperimentError where a step raises.
    """
    model, found = subject.model, list[bool | None]()
    modes = Modes(model)

    def step() -> Tensor:
        loop = made(subject)
        end = ends_epoch(loop)
        for number in range(2):
            if number and epoch and end is not None:
                end()
            modes.modes, before = {}, model.training
            take_step(loop, batch)
            alone = before if subject.train_step is None or end is not None else None
            found.append(modes.modes.get("", alone))
        return torch.zeros(())

    with Bus(model, [modes], modes), ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found
