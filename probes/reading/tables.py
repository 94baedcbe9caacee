"""Tables of numbers that a model holds and does not learn, and what the loss makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes.experiment import Experiment, attempted, copied
from probes.modules import every_module
from probes.replay import Snapshot, replay

SMALL = 0.1  # spread of what stands in for weights of nothing but zeros


@dataclass(frozen=True, eq=False)
class Table:
    """A buffer, or a frozen weight that is looked up, of several rows that are not alike."""

    module: str
    name: str
    owner: dict[str, Tensor | None]
    values: Tensor

    @property
    def path(self) -> str:
        """Its dotted name."""
        return f"{self.module}.{self.name}"

    def put(self, values: Tensor) -> None:
        """Other values stand in its place, until a replay gives it back."""
        self.owner[self.name] = values


def tables(model: nn.Module) -> Iterator[Table]:
    """All that a model holds, each once."""
    seen: set[int] = set()
    for site, module in every_module(model):
        weights: dict[str, Tensor | None] = module._parameters  # type: ignore[assignment]
        looked_up = isinstance(module, nn.Embedding) or not _is_torch_own(module)
        for owner in (module._buffers, *([weights] if looked_up else [])):
            for name, values in owner.items():
                if values is None or values.requires_grad or id(values) in seen:
                    continue
                seen.add(id(values))
                if _is_table(values):
                    yield Table(site, name, owner, values)


def unfelt(experiment: Experiment, known: Sequence[Table]) -> list[Table]:
    """The tables that lead to the loss, whose gradient with respect to them is all zeros.

    Weights of nothing but zeros are replaced for it, since what is held back by those comes
    through later. Where a trained module gets a gradient of zeros, too, its whole branch is at
    rest, and no table is given. Raises ExperimentError where the loss raises.
    """
    model, found = experiment.subject.model, list[Table]()

    def step() -> Tensor:
        leaves = [each.values.detach().clone().requires_grad_() for each in known]
        trained = [p for p in model.parameters() if p.requires_grad]
        owned = [
            [p for p in module.parameters(recurse=False) if p.requires_grad]
            for module in model.modules()
        ]
        for p in trained:
            if not bool(p.any()):
                p.data.normal_(std=SMALL)
        for each, leaf in zip(known, leaves, strict=True):
            each.put(leaf + 0)
        with attempted("`Subject.loss`, in evaluation mode,"):
            loss = experiment.subject.loss(model.eval(), copied(experiment.batch))
            if not loss.requires_grad:
                return loss
            grads = torch.autograd.grad(loss, [*leaves, *trained], allow_unused=True)
        by_id = {id(p): grad for p, grad in zip(trained, grads[len(leaves) :], strict=True)}
        if not any(_at_rest([by_id[id(p)] for p in own]) for own in owned):
            pairs = zip(known, grads, strict=False)
            found.extend(each for each, grad in pairs if _at_rest([grad]))
        return loss

    replay(step, model, Snapshot.take(model, parameters=True))
    return found


def _at_rest(grads: Sequence[Tensor | None]) -> bool:
    """Whether there is a gradient, and nothing but zeros in any."""
    there = [each for each in grads if each is not None]
    return bool(there) and not any(bool(each.to_dense().any()) for each in there)


def _is_table(values: Tensor) -> bool:
    if not values.is_floating_point() or values.layout is not torch.strided:
        return False
    rows = values.detach().squeeze()
    return rows.ndim > 1 and bool((rows != rows[:1]).any())


def _is_torch_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")
