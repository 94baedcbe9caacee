"""Where the input gets lost on the way forward: an operator whose output no longer follows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.batch import leaves
from probes.experiment import Experiment
from probes.finding import ExperimentError
from probes.nested import tensors_in
from probes.raised import source_here
from probes.scoring.calls import LOSSES
from probes.subject import Batch

MOST = 20_000  # operators that are followed
KEPT = 2**29  # bytes that are held on to
NOTHING = 1e-5  # of a tensor's size: a difference that rounding may make
PICKS = ("getitem", "select", "narrow", "index_select", "gather", "unbind", "chunk", "split")
MAKERS = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")


@dataclass(frozen=True, slots=True)
class Lost:
    """An operator by torch's name, the module that it runs in, and the user's line."""

    op: str
    site: str | None
    source: str | None


def where_lost(
    model: nn.Module, run: Callable[[Batch, Follow], object], batch: Batch, other: Batch
) -> Lost | None:
    """The last operator that reads what follows the input and gives what does not.

    What picks a part loses nothing where another part of the same tensor is picked that follows.
    run: the same each time, of the batch and of the other, under what it is given. None where
    what comes out follows the input, or where too much runs to tell. Yes and no count where
    nothing else is lost: ids that are compared with padding are not.
    """
    second = followed(model, run, batch, other)
    found = None if second is None else second.found
    return None if found is not None and found.op in LOSSES.values() else found


def followed(
    model: nn.Module, run: Callable[[Batch, Follow], object], batch: Batch, other: Batch
) -> Follow | None:
    """What came of the second of the two runs, beside the first; None where that cannot be told."""
    first = Follow({}, model, None)
    run(batch, first)
    second = Follow(_moved(batch, other), model, first.marks)
    run(other, second)
    return second if len(first.marks) < MOST and not second.parted else None


def lost_of(experiment: Experiment, other: Batch) -> Lost | None:
    """Where what differs between both batches is lost, in evaluation mode; None if anything raises.

    The loss and `Subject.predict` are run; nothing of the subject changes.
    """
    with suppress(ExperimentError):
        return where_lost(
            experiment.subject.model,
            lambda batch, follow: experiment.evaluate(batch, (follow,)),
            experiment.batch,
            other,
        )
    return None


def _moved(before: Batch, after: Batch) -> dict[int, bool]:
    """The tensors of the second batch that differ from those of the first."""
    old = leaves(before)
    return {
        id(leaf): True
        for key, leaf in leaves(after).items()
        if isinstance(leaf, Tensor) and not torch.equal(leaf, old[key])
    }


class Follow(TorchFunctionMode):
    """While it is entered, marks what every operator gives, or compares it with earlier marks.

    moved: ids of tensors that differ from the earlier run. losses: where the input was lost, each
    with the tensor that it is a part of, where it was picked, and with what was made. parted:
    whether the two runs took different ways.
    """

    def __init__(
        self,
        moved: dict[int, bool],
        model: nn.Module,
        earlier: Sequence[tuple[float, float]] | None,
    ) -> None:
        super().__init__()
        self.moved = moved
        self.sites = {id(module): name for name, module in model.named_modules()}
        self.earlier = earlier
        self.marks: list[tuple[float, float]] = []
        self.losses: list[tuple[Lost, int | None, Tensor]] = []
        self.followed: set[int] = set()  # tensors of which a part was picked that differs
        self.read: dict[int, set[int]] = {}  # what each tensor was made of
        self.parted = False
        self._held: list[Tensor] = []  # so that no id is given twice
        self._bytes = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; what it gave is marked."""
        out = func(*args, **(kwargs or {}))
        made = [each for each in tensors_in(out) if each.numel()]
        if not made or len(self.marks) >= MOST or self._bytes > KEPT:
            return out
        reads = list(tensors_in([*args, *(kwargs or {}).values()]))
        for tensor in made:
            self._see(func, tensor, reads)
        return out

    def _see(self, func: Callable[..., Any], made: Tensor, reads: Sequence[Tensor]) -> None:
        place = len(self.marks)
        self.marks.append(_mark(made))
        self._held.append(made)
        self._bytes += made.numel() * made.element_size()
        if self.earlier is None:
            return
        if place >= len(self.earlier):
            self.parted = True
            return
        self.read.setdefault(id(made), set()).update(map(id, reads))
        differs = _differ(self.marks[place], self.earlier[place])
        self.moved[id(made)] = differs
        read = any(self.moved.get(id(each), False) for each in reads)
        name = getattr(func, "__name__", "")
        weak = made.dtype is torch.bool and bool(self.losses)
        of = id(reads[0]) if reads and name.strip("_") in PICKS else None
        if of is not None and differs:
            self.followed.add(of)
        if read and not differs and not weak and name not in MAKERS and name != "__get__":
            lost = Lost(name.strip("_"), self.site(), source_here())
            self.losses.append((lost, of, made))

    @property
    def found(self) -> Lost | None:
        """Where the input was lost."""
        lost = (each for each, of, _ in reversed(self.losses) if of not in self.followed)
        return next(lost, None)

    def lost_before(self, end: Tensor) -> Lost | None:
        """Where the input was lost on the way to what does not follow it."""
        way, left = {id(end)}, [id(end)]
        while left:
            new = self.read.get(left.pop(), set()) - way
            way |= new
            left += new
        return next((one for one, _, made in reversed(self.losses) if id(made) in way), None)

    def site(self) -> str | None:
        """The innermost module at work."""
        frame: Any = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module):
                name: str | None = self.sites.get(id(owner))
                if name:
                    return name
            frame = frame.f_back
        return None


def _mark(tensor: Tensor) -> tuple[float, float]:
    """A number that moves with the values and with their order, and the size of them all."""
    if tensor.layout is not torch.strided or tensor.is_complex():
        return 0.0, 0.0
    flat = torch.nan_to_num(tensor.detach().double().flatten(), 0.0, 0.0, 0.0)
    weights = torch.cos(torch.arange(len(flat), dtype=torch.double, device=flat.device))
    return float(flat @ weights), float(flat.abs().sum())


def _differ(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) > NOTHING * max(one[1], other[1], 1e-30)
