"""What is not trained and lies in the memory of what is: at the start, or after a few steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.copying import in_one_memory
from probes.finding import ExperimentError
from probes.raised import source_here
from probes.replay import Snapshot, replay
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.subject import Batch, Subject

CALLS = 12  # of a step of the subject's own, among which a target may be renewed


@dataclass(frozen=True, slots=True)
class OneMemory:
    """still: names of what is not trained. trained: one that is, for each of them.

    step: after how many calls of the step they lay so. source: the line that laid them so, where a
    step did it.
    """

    still: tuple[str, ...]
    trained: tuple[str, ...]
    step: int
    source: str | None


def one_memory(subject: Subject, batch: Batch) -> OneMemory | None:
    """None where all that stands still has memory of its own; steps are undone.

    A step of the subject's own is called until it lays them so, for the line that does.
    """
    model, found = subject.model, list[OneMemory]()
    laid = _Laid()

    def step() -> Tensor:
        loop = made(subject)
        held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
        every = (*model.parameters(), *model.buffers())
        still = any(id(each) not in held or not each.requires_grad for each in every)
        _note(model, held, 0, laid, found)
        if subject.train_step is None or not still:
            return torch.zeros(())
        with laid:
            for count in range(1, CALLS + 1):
                take_step(loop, batch)
                if laid.sources and _note(model, held, count, laid, found):
                    break
        return torch.zeros(())

    try:
        with ExitStack() as outside:
            keep_strangers(subject, outside)
            replay(step, model, Snapshot.take(model, parameters=True))
    except ExperimentError:
        pass  # what was found before it raised stands
    return found[-1] if found else None


def _note(
    model: nn.Module, held: set[int], count: int, laid: _Laid, found: list[OneMemory]
) -> bool:
    now = _still(model, held)
    if now:
        source = next((laid.sources[i] for i in now.values() if i in laid.sources), None)
        still, trained = (tuple(each[i] for each in now) for i in (0, 1))
        found.append(OneMemory(still, trained, found[0].step if found else count, source))
    return bool(now)


def _still(model: nn.Module, held: set[int]) -> dict[tuple[str, str], int]:
    """What is not trained with what is, in one memory; and the id of the former."""
    found: dict[tuple[str, str], int] = {}
    for names, tensors in in_one_memory(model):
        pairs = list(zip(names, tensors, strict=True))
        learns = next((n for n, t in pairs if id(t) in held and t.requires_grad), None)
        size = max((t.numel() for n, t in pairs if n == learns), default=0)
        for name, tensor in pairs:
            slice_of = tensor.requires_grad and tensor.numel() < size  # learns by the flat one
            still = id(tensor) not in held or not tensor.requires_grad
            if learns is not None and still and not slice_of:
                found[name, learns] = id(tensor)
    return found


class _Laid(TorchFunctionMode):
    """Notes the lines that set `tensor.data`, by the tensor's id."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[int, str | None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function has run as it would have."""
        if getattr(func, "__name__", "") == "__set__" and func.__self__ is Tensor.data:
            self.sources[id(args[0])] = source_here()
        return func(*args, **(kwargs or {}))
