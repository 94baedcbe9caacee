"""Where all numbers become zero on the way forward, and which parameters are given nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probes.nested import tensors_in
from probes.raised import source_here
from probes.reading.lost import Follow
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

MOST = 5000  # calls that are looked at
Call = tuple[str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Emptied:
    """A call that reads what is trained and is not zero, and gives zeros alone, for every sample.

    op, site, source: its name, the module that it runs in, and the user's line. parameters: those
    that are read together with its zeros, and with nothing else. silent: whether it hands no
    gradient back either.
    """

    op: str
    site: str | None
    source: str | None
    parameters: tuple[str, ...]
    silent: bool = False

    @property
    def words(self) -> str:
        """What it does, as the beginning of a sentence."""
        line = f" at {self.source}" if self.source else f" in `{self.site}`" if self.site else ""
        back = " and hands no gradient back" if self.silent else ""
        return f"`{self.op}`{line} gives nothing but zeros for any sample{back}"


def emptied(subject: Subject, batches: Sequence[Batch]) -> Emptied | None:
    """The first such call, the same on all batches, in the modes of training; None of none."""
    found: dict[Call, Emptied] | None = None
    for batch in batches:
        seen = _Emptying(subject)
        with undisturbed(subject.model, training=True), torch.enable_grad():
            with seen:
                subject.loss(subject.model, batch)
            now = seen.found()
        found = now if found is None else {call: now[call] for call in found if call in now}
        if not found:
            return None
    return next(iter((found or {}).values()), None)


class _Emptying(TorchFunctionMode):
    """While it is entered, keeps the calls that give zeros alone, and what is made of these."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        named = subject.model.named_parameters()
        self._names = {id(each): name for name, each in named if each.requires_grad}
        self._follow = Follow({}, subject.model, None)
        self._calls: list[tuple[Call, Tensor, Tensor]] = []
        self._of: dict[int, int] = {}  # a tensor of zeros to the number of its call
        self._held: list[Tensor] = []  # so that no id is given twice
        self._fed: dict[int, list[str]] = {}
        self._left = MOST

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run."""
        out = func(*args, **(kwargs or {}))
        if self._left > 0 and getattr(func, "__name__", "") != "__get__":
            self._left -= 1
            self._see(func, [*tensors_in([*args, *(kwargs or {}).values()])], out)
        return out

    def _see(self, func: Callable[..., Any], read: Sequence[Tensor], out: Any) -> None:
        given = [each for each in read if each.requires_grad and id(each) not in self._names]
        zeros = [self._of[id(each)] for each in given if id(each) in self._of]
        if zeros and len(zeros) == len(given):
            own = [self._names[id(each)] for each in read if id(each) in self._names]
            self._fed.setdefault(zeros[0], []).extend(own)
        if not given or not isinstance(out, Tensor) or not out.requires_grad or out.numel() < 2:
            return
        if not _is_zero(out):
            return
        if zeros:
            self._of[id(out)] = zeros[0]
        elif (source := next((each for each in given if not _is_zero(each)), None)) is not None:
            name = getattr(func, "__name__", "").strip("_")
            self._of[id(out)] = len(self._calls)
            self._calls.append(((name, self._follow.site(), source_here()), source, out))
        self._held.append(out)

    def found(self) -> dict[Call, Emptied]:
        """The calls whose zeros alone some parameters are given, in their order."""
        return {
            call: Emptied(*call, tuple(self._fed[number]), _hands_nothing_back(source, out))
            for number, (call, source, out) in enumerate(self._calls)
            if self._fed.get(number)
        }


def _is_zero(tensor: Tensor) -> bool:
    return not bool(tensor.detach().count_nonzero())


def _hands_nothing_back(source: Tensor, out: Tensor) -> bool:
    found = torch.autograd.grad(out, source, torch.ones_like(out), allow_unused=True)[0]
    return found is None or _is_zero(found)
