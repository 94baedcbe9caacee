"""What is learned once the terms that read no label are taken out of a trained model's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from overfit.regularisers import means, regularisers
from overfit.terms import MOST
from probes.loop import Loop
from probes.scoring.addends import Addend, Part, addends, part
from probes.seeding import kept_random_state, seed_everything
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

STEPS = 100
ALIKE = 1e-4  # of itself: a part's value and the term's that is the same

Numbers = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Released:
    """A loss of which the terms that read no label were taken out, and the others' sum then.

    term, source, weight: the one of them that weighs most, the line that adds it to the loss,
    and its weight there. began, before: the others' sum under the weights at the start and those
    at the end. kept, without: after `STEPS` more steps of the whole loss, and of the others alone.
    """

    term: str
    source: str | None
    weight: float
    began: float
    before: float
    kept: float
    without: float


def released(subject: Subject, batches: Sequence[Batch], began: Numbers) -> Released | None:
    """What the others come to; None of a loss that is no sum, or whose terms all read labels.

    From the weights that the model has, by the subject's own optimizer, which begins afresh; all
    is as it was afterwards.
    """
    with undisturbed(subject.model), torch.no_grad():
        known = addends(subject, subject.model, batches[0])
    if not 1 < len(known) <= MOST:
        return None
    terms = {str(place): part(subject, place) for place in range(len(known))}
    named = replace(subject, parts=terms)
    held = regularisers(named, batches[0])
    if not 0 < len(held) < len(known):
        return None
    others = [place for place in range(len(known)) if str(place) not in held]
    one = max((known[int(name)] for name in held), key=lambda each: abs(each.weight))

    def alone(model: nn.Module, batch: Batch) -> Tensor:
        found = addends(subject, model, batch)
        return torch.stack([found[place].value for place in others]).sum()

    measured = replace(subject, parts={"others": alone})
    ends = _ends(measured, batches, began, (subject.loss, alone))
    return Released(_called(subject, batches[0], one), one.added or one.source, one.weight, *ends)


def _ends(
    measured: Subject, batches: Sequence[Batch], began: Numbers, losses: Sequence[Part]
) -> list[float]:
    """The part at the start, at the end, and after more steps of each loss."""
    model = measured.model
    now = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        found = [means(measured, batches)["others"]]
        for loss in losses:
            model.load_state_dict(now)
            _train(replace(measured, loss=loss, train_step=None), batches)
            found.append(means(measured, batches)["others"])
        model.load_state_dict(dict(began))
        return [means(measured, batches)["others"], *found]
    finally:
        model.load_state_dict(now)
        model.zero_grad(set_to_none=True)


def _train(subject: Subject, batches: Sequence[Batch]) -> None:
    loop = Loop(subject)
    with undisturbed(subject.model, training=True), kept_random_state(), torch.enable_grad():
        seed_everything(0)
        for step in range(STEPS):
            loop.step(batches[step % len(batches)], None)


def _called(subject: Subject, batch: Batch, term: Addend) -> str:
    """The name of the part that the term is, where somebody has named it."""
    value = float(term.value) / (term.weight or 1.0)
    with undisturbed(subject.model), torch.no_grad():
        for name, each in subject.parts.items():
            if abs(float(each(subject.model, batch)) - value) <= ALIKE * abs(value):
                return name
    return term.name
