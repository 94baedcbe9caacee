"""Which lines write in place into tensors that are named beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from probes.batch import leaves
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.nested import tensors_in
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.running import names_of, running


@dataclass(frozen=True, slots=True)
class Write:
    """name: of what was written into. op: the operator. site: the module at work, or `<loss>`."""

    name: str
    op: str
    site: str
    source: str | None


class Writes(TorchDispatchMode):
    """Notes operators that write into the memory of one of these tensors, views of it included.

    watched: by name, and read anew at each operator, so that it may change.
    """

    def __init__(self, model: nn.Module, watched: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Write] = []
        self._names = names_of(model)
        self._watched = watched

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator has run as it would have."""
        kwargs = kwargs or {}
        into = {memory(t) for t in _written(func, args, kwargs)} - {None}
        if into:
            for name, tensor in self._watched.items():
                if memory(tensor) in into:
                    op = str(func).rpartition(".")[0]
                    self.found.append(Write(name, op, running(self._names) or LOSS, source_here()))
        return func(*args, **kwargs)


def first_write(experiment: Experiment, key: str) -> Write | None:
    """The first that the loss, in evaluation mode, does to this key of the batch; None without."""
    model, own = experiment.subject.model, copied(experiment.batch)
    writes = Writes(model, {key: leaves(own)[key]})

    def step() -> Tensor:
        with writes, attempted("`Subject.loss`, in evaluation mode,"):
            return experiment.subject.loss(model.eval(), own).detach()

    replay(step, model, Snapshot.take(model))
    return next(iter(writes.found), None)


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for i, one in enumerate(func._schema.arguments):
        if one.alias_info is not None and one.alias_info.is_write:
            given = args[i] if i < len(args) else kwargs.get(one.name)
            yield from tensors_in([given])


def memory(tensor: Tensor) -> int | None:
    """Where its storage lies; None where it has none that can be told."""
    if tensor.layout is not torch.strided or type(tensor) not in (Tensor, nn.Parameter):
        return None
    return tensor.untyped_storage().data_ptr() or None
