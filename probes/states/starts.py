"""The states that recurrent layers start a batch from, whatever is left of them at its end."""

from __future__ import annotations

from collections.abc import Callable

import torch

from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.states.attributes import changed
from probes.states.life import Life, Outputs, differs, other_batches
from probes.states.recurrence import Recurrent, is_recurrent
from probes.subject import Batch

SHARE = 1e-4  # of the state: less is the rounding of what it is made from


def starts(life: Life, batch: Batch) -> Outputs:
    """What each recurrent layer's first call starts from, in evaluation mode, by its site."""
    return _states(life.evaluating(batch))


def training_starts(life: Life, batch: Batch) -> Outputs:
    """The same in the model's own mode."""
    return _states(life.recurrent(batch))


STARTS: dict[str, Callable[[Life, Batch], Outputs]] = {
    "evaluation": starts,
    "training": training_starts,
}


def _states(found: list[Recurrent]) -> Outputs:
    """Zeros where a layer was given no state, since these are what it starts from then."""
    states = {}
    for each in found:
        first, parts = each.calls[0], each.parts
        held = [one.value for one in first.before[:parts]]
        if parts:
            held = held or [torch.zeros_like(one.value) for one in first.after(parts)]
            states[each.site] = torch.cat([one.flatten() for one in held])
    return states


def starts_elsewhere(
    experiment: Experiment,
) -> tuple[str, Batch, tuple[str, float, float]] | None:
    """The layer that starts a batch from another state after another batch.

    In which mode, the batch that came before, and the layer with the change of its state as a share
    of the state, and the limit. Asked where no output tells: over a long sequence an untrained
    layer forgets what it started from, and a trained one need not.
    """
    if not any(is_recurrent(module) for module in experiment.subject.model.modules()):
        return None
    for how, act in STARTS.items():
        for other in other_batches(experiment):
            life = Life(experiment)
            fresh = life.contents
            try:
                act(life, other)
                if not changed(fresh, life.contents):
                    break
                alone, after = act(Life(experiment), experiment.batch), act(life, experiment.batch)
            except ExperimentError:
                continue
            moved = differs({name: after[name] for name in alone if name in after}, alone)
            if moved is not None and moved[1] > SHARE:
                return how, other, moved
            break
    return None
