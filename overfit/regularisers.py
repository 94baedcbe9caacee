"""The parts of a loss that read no label: a KL against a prior, a norm of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from overfit.terms import MOST
from probes.batch import leaves
from probes.nested import tensors_in
from probes.scoring.addends import addends, part
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

OUT = frozenset(
    ("item", "tolist", "numpy", "__array__", "__int__", "__float__", "__index__", "__complex__")
)
"""What makes numbers of a tensor, whose way cannot be followed."""


def unlabelled(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor]
) -> dict[str, Any]:
    """As `Look` holds them: `regularisers`, and the `terms` of which nobody has named any.

    Terms are given where one of them reads no label: under the weights the model began with, and
    those it has.
    """
    if subject.parts:
        return {"regularisers": regularisers(subject, batches[0])}
    with undisturbed(subject.model), torch.no_grad():
        count = len(addends(subject, subject.model, batches[0]))
    if not 1 < count <= MOST:
        return {}
    terms = {f"term {place + 1}": part(subject, place) for place in range(count)}
    named = replace(subject, parts=terms)
    found = regularisers(named, batches[0])
    if not found:
        return {}
    now, ended = means(named, batches), {k: v.clone() for k, v in _numbers(subject.model)}
    try:
        subject.model.load_state_dict({**subject.model.state_dict(), **began})
        before = means(named, batches)
    finally:
        subject.model.load_state_dict({**subject.model.state_dict(), **ended})
    return {"regularisers": found, "terms": {name: (before[name], now[name]) for name in terms}}


def _numbers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((k, v) for k, v in model.state_dict().items() if isinstance(v, Tensor))


def means(subject: Subject, batches: Sequence[Batch]) -> dict[str, float]:
    """Each part in evaluation mode, the mean over the batches."""
    with undisturbed(subject.model), torch.no_grad():
        return {
            name: sum(float(value(subject.model, batch)) for batch in batches) / len(batches)
            for name, value in subject.parts.items()
        }


def regularisers(subject: Subject, batch: Batch) -> tuple[str, ...]:
    """The parts that are reached from the batch through the model's weights alone.

    What is computed of the batch by itself, as a label is, makes a part one that learns; what a
    weight was applied to is the model's own. None are known of a batch that holds more than
    tensors. Runs every part in evaluation mode.
    """
    found = leaves(batch)
    if not all(isinstance(each, Tensor) for each in found.values()):
        return ()
    given = [each for each in found.values() if isinstance(each, Tensor)]
    with undisturbed(subject.model), torch.no_grad():
        return tuple(
            name for name, part in subject.parts.items() if not _reads(part, subject, batch, given)
        )


def _reads(
    part: Callable[[nn.Module, Batch], Tensor],
    subject: Subject,
    batch: Batch,
    given: Sequence[Tensor],
) -> bool:
    """Whether the part reads something of the batch that is not what a weight made of it."""
    with _Followed(given) as followed:
        value = part(subject.model, batch)
    return bool(followed.escaped or followed.holds(value))


class _Followed(TorchFunctionMode):
    """Follows tensors, and all that is computed of them, up to where a weight is applied.

    A parameter of one number only scales, and changes nothing of what it is applied to.
    """

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.escaped = False
        self._held = {id(each): each for each in given}  # held, so that no id is given again

    def holds(self, value: object) -> bool:
        """Whether this is one of them."""
        return id(value) in self._held

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run, and its results are followed where it read what is."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        read = [*tensors_in((args, kwargs))]
        if not any(map(self.holds, read)) or any(map(_is_weight, read)):
            return out
        name = getattr(func, "__name__", "")
        self.escaped = self.escaped or name in OUT
        written = args[:1] if name == "__setitem__" or _in_place(name) else ()
        for each in tensors_in((out, written, kwargs.get("out"))):
            self._held[id(each)] = each
        return out


def _in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _is_weight(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.numel() > 1
