"""Whether the samples are memorised by making the loss larger: then its sign is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from overfit.heads import Heads
from probes.loop import Loop
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

STEPS, EVERY = 100, 10


def climbed(subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor]) -> int | None:
    """After how many steps with the loss turned round everything that is counted is right.

    From the weights that it began with, by the subject's own optimizer. None where it is not,
    nothing is counted, or the step is the subject's own. Its weights are as they were afterwards.
    """
    if subject.train_step is not None or Heads(subject, batches).derived:
        return None
    model = subject.model
    ended = {name: value.clone() for name, value in model.state_dict().items()}

    def turned(model: nn.Module, batch: Batch) -> Tensor:
        return -subject.loss(model, batch)

    try:
        with undisturbed(model, training=True):
            model.load_state_dict(dict(began))
            return _steps(replace(subject, loss=turned), batches)
    finally:
        model.load_state_dict(ended)
        model.zero_grad(set_to_none=True)


def _steps(subject: Subject, batches: Sequence[Batch]) -> int | None:
    loop, heads = Loop(subject), Heads(subject, batches)
    with torch.enable_grad():
        for step in range(STEPS):
            loop.step(batches[step % len(batches)], None)
            if (step + 1) % EVERY == 0 and heads.evaluate().perfect:
                return step + 1
    return None
