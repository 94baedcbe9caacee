"""Parameters that lie in one memory, of which an optimizer trains more than one."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes.copying import in_one_memory
from probes.finding import ExperimentError
from probes.raised import place_in, source_of_code
from probes.replay import Snapshot, replay
from probes.stepping.hooked import before_steps
from probes.stepping.one_step import keep_strangers, made, until_stepped
from probes.subject import Batch, Subject

STEPS = 4  # of the optimizer until one moves anything: a schedule may begin at zero
Named = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class BothTrained:
    """names: of the parameters. source: the line that made the last of them a parameter.

    apart: how far their first step is from that of one parameter in their place, which has the sum
    of their gradients, as a share of that; farther: how many times as far it goes. None where
    none lies within another, or nothing moves.
    """

    names: tuple[str, ...]
    source: str | None
    apart: float | None
    farther: float | None


def both_trained(subject: Subject, batch: Batch) -> BothTrained | None:
    """The first such; None where every parameter that gets a gradient has memory of its own."""
    try:
        names, apiece = _step(subject, batch, together=False)
        if len(names) < 2:
            return None
        _, as_one = _step(subject, batch, together=True)
    except ExperimentError:
        return None
    source = next(filter(None, (_made_at(subject.model, n) for n in reversed(names))), None)
    if apiece is None or as_one is None or not as_one.any():
        return BothTrained(names, source, None, None)
    length = float(as_one.norm())
    apart, farther = float((apiece - as_one).norm()) / length, float(apiece.norm()) / length
    return BothTrained(names, source, apart, farther)


def _step(subject: Subject, batch: Batch, together: bool) -> tuple[tuple[str, ...], Tensor | None]:
    """Those with a gradient, and how a step moved the memory of the largest; it is undone."""
    model, found = subject.model, list[tuple[tuple[str, ...], Tensor | None]]()

    def step() -> Tensor:
        loop = made(subject)
        held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
        group = next(_groups(model, held), [])
        alive = set[str]()
        if not group:
            found.append(((), None))
            return torch.zeros(())
        largest = max(group, key=lambda each: each[1].numel())[1]
        before = largest.detach().clone()
        with before_steps(loop.optimizer, partial(_look, group, largest, alive, together)):
            for _ in range(STEPS):
                until_stepped(loop, model, batch)
                moved = largest.detach() - before
                if moved.any():
                    break
        names = tuple(name for name, _ in group if name in alive)
        found.append((names, moved.double() if _are_within(group, largest) else None))
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found[0]


def _groups(model: nn.Module, held: set[int]) -> Iterator[Named]:
    """Those that the optimizer holds and that have numbers of the memory in common."""
    for names, tensors in in_one_memory(model):
        group = [
            (name, tensor)
            for name, tensor in zip(names, tensors, strict=True)
            if id(tensor) in held and _is_trained(tensor)
        ]
        marks = [_marks(tensor) for _, tensor in group]
        meet = [
            each
            for i, each in enumerate(group)
            if any(bool((marks[i] & other).any()) for j, other in enumerate(marks) if j != i)
        ]
        if meet and len({p.dtype for _, p in meet}) == 1:
            yield meet


def _is_trained(tensor: Tensor) -> bool:
    """Whether it is a parameter that learns, each number of which has a place of its own."""
    spread = any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad and not spread


def _whole(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros, one for each number of its memory."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return torch.zeros(size, dtype=dtype, device=tensor.device)


def _at(whole: Tensor, tensor: Tensor) -> Tensor:
    """The view of it that the tensor is of its own memory."""
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _marks(tensor: Tensor) -> Tensor:
    whole = _whole(tensor, torch.bool)
    _at(whole, tensor).fill_(True)
    return whole


def _are_within(group: Named, largest: Tensor) -> bool:
    outside = ~_marks(largest)
    return not any(bool((_marks(p) & outside).any()) for _, p in group)


def _look(group: Named, largest: Tensor, alive: set[str], together: bool, *_: Any) -> None:
    """Those with a gradient are noted; together: the largest has the sum, the others have none."""
    have = [(name, p, p.grad) for name, p in group if p.grad is not None]
    alive.update(each[0] for each in have)
    if not together or len(have) < 2 or not _are_within(group, largest):
        return
    whole = _whole(largest, largest.dtype)
    for _name, p, grad in have:
        _at(whole, p).add_(grad.to_dense())
        p.grad = None
    largest.grad = _at(whole, largest)


def _made_at(model: nn.Module, name: str) -> str | None:
    """The line of a module around it that assigns something made to it; None without one."""
    parts = name.split(".")
    for end in range(len(parts)):
        module = model.get_submodule(".".join(parts[:end]))
        found = _assigned(type(module), f"self.{'.'.join(parts[end:])}")
        if found is not None:
            return found
    return None


def _assigned(kind: type, target: str) -> str | None:
    if source_of_code(kind.__init__) is None:  # type: ignore[misc]
        return None
    try:
        lines, first = inspect.getsourcelines(kind)
        path = inspect.getfile(kind)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        if any(ast.unparse(each) == target for each in node.targets):
            return place_in(path, first + node.lineno - 1)
    return None
