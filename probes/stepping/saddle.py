"""Two factors of one product that both begin as zeros, so that each is the other's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from probes.experiment import Experiment, attempted, copied
from probes.replay import Snapshot, replay

MOST = 8  # parameters that the loss and its backward pass are run for


def saddle(experiment: Experiment, names: Sequence[str]) -> tuple[str, str] | None:
    """The first two of these that hold zeros alone, each of which gives the other a gradient.

    names: parameters whose gradient is zero. That of one is not any more, once the other alone is
    made something else; and the other way round. None where there are no such two.
    Raises ExperimentError where the loss raises.
    """
    live = dict(experiment.subject.model.named_parameters())
    empty = [name for name in names if not bool(live[name].detach().any())]
    for one in empty[:MOST]:
        taught = _taught(experiment, one, empty)
        for other in taught[:MOST]:
            if one in _taught(experiment, other, [one]):
                return one, other
    return None


def _taught(experiment: Experiment, changed: str, among: Sequence[str]) -> list[str]:
    """Those that get a gradient once this one is drawn at random."""
    grads = _gradients(experiment, changed)
    return [n for n in among if n != changed and bool(grads.get(n, _NONE).any())]


_NONE = torch.zeros(1, device="cpu")


def _gradients(experiment: Experiment, changed: str) -> Mapping[str, Tensor]:
    subject = experiment.subject
    model = subject.model
    other = dict(model.named_parameters())[changed]

    def step() -> Tensor:
        chance = torch.Generator().manual_seed(0)
        other.data.copy_(torch.randn(other.shape, generator=chance, device="cpu"))
        with attempted("`Subject.loss`"):
            loss = subject.loss(model, copied(experiment.batch))
            loss.backward()
        return loss

    done = replay(step, model, Snapshot.take(model, parameters=True))
    return {n: g.to_dense() for n, g in done.grads.items() if g is not None}
