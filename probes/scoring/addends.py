"""The terms that a loss is the sum of, where nobody has named them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.raised import source_here
from probes.subject import Batch, Subject

ADDS = ("add", "__add__", "__radd__", "add_", "sub", "__sub__", "sub_")
SHARES = ("div", "__truediv__", "true_divide", "neg", "__neg__")
IN_PLACE = ("add_", "sub_")
TIMES = ("mul", "__mul__", "__rmul__")

Part = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Addend:
    """value: a single number, with its weight in it. op, source: what made it, and where.

    added: the line at which it is added to another, or taken from it.
    """

    value: Tensor
    op: str
    source: str | None
    weight: float = 1.0
    added: str | None = None

    @property
    def name(self) -> str:
        """As a message calls it."""
        return f"{self.op} at {self.source}" if self.source else self.op


def addends(subject: Subject, model: nn.Module, batch: Batch) -> tuple[Addend, ...]:
    """The terms of the subject's loss on a batch, in their order; one where it is no sum."""
    sums = _Sums()
    with sums:
        loss = subject.loss(model, batch)
    return tuple(each for each in sums.of(loss) if isinstance(each.value, Tensor))


def part(subject: Subject, place: int) -> Part:
    """The term at this place, as one of `Subject.parts` is."""

    def value(model: nn.Module, batch: Batch) -> Tensor:
        return addends(subject, model, batch)[place].value

    return value


def weighed(subject: Subject, place: int, rate: float) -> Part:
    """The loss, with the term at this place so many times as large."""

    def value(model: nn.Module, batch: Batch) -> Tensor:
        sums = _Sums()
        with sums:
            loss = subject.loss(model, batch)
        return loss + (rate - 1) * sums.of(loss)[place].value

    return value


class _Sums(TorchFunctionMode):
    """Remembers of every single number of which others it is the sum, or the multiple."""

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[int, tuple[Addend, ...]] = {}
        self._kept: list[Tensor] = []  # so that no other gets its identity

    def of(self, value: Tensor) -> tuple[Addend, ...]:
        return self._of.get(id(value)) or (Addend(value, "loss", None),)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function has run as it would have, but that a sum in place has its first term yet."""
        name = getattr(func, "__name__", "")
        given = args
        if name in IN_PLACE and _is_number(args[0]):
            given = (self._again(args[0]), *args[1:])
        out = func(*args, **(kwargs or {}))
        if _is_number(out) and out.is_floating_point():
            self._kept.append(out)
            self._of[id(out)] = self._made(func, out, given, bool(kwargs))
        return out

    def _again(self, value: Tensor) -> Tensor:
        """The value under another identity, since its own is about to be another sum's."""
        copy, known = value.clone(), self.of(value)
        self._kept.append(copy)
        if len(known) == 1:
            one = known[0]
            known = (replace(one, value=copy),)
        self._of[id(copy)] = known
        return copy

    def _made(self, func: Any, out: Tensor, args: Any, named: bool) -> tuple[Addend, ...]:
        name, numbers = func.__name__, [each for each in args if isinstance(each, Tensor)]
        if named or not numbers or not all(_is_number(each) for each in numbers):
            return (Addend(out, name.strip("_"), source_here()),)
        if name in ADDS:
            line = source_here()
            terms = (one for each in numbers for one in self.of(each))
            return tuple(replace(one, added=one.added or line) for one in terms)
        constants = [each for each in args if not isinstance(each, Tensor)]
        if name not in (*TIMES, *SHARES) or len(numbers) > 1 or len(args) > 2:
            return (Addend(out, name.strip("_"), source_here()),)
        weight = float(constants[0]) if constants and name in TIMES else 1.0
        return tuple(
            replace(one, value=func(one.value, *constants), weight=one.weight * weight)
            for one in self.of(numbers[0])
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0
