"""Rolls that are not undone before what was rolled meets what it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.experiment import LOSS, Experiment
from probes.nested import tensors_in
from probes.raised import source_here
from probes.reading.alive import alive, gradients
from probes.running import names_of, running

MEETS = {"add", "iadd", "radd", "cat", "concat", "concatenate"}
MOST = 20_000  # nodes of the graph that are looked at
PLACES = (0.13, 0.37, 0.52, 0.71, 0.9)  # of all numbers: where it is looked at what is read
SMALL = 1e-7  # of the largest gradient: less is not read

Move = tuple[int, int, int]  # axis, its length, places that it was moved on by


@dataclass(frozen=True, slots=True, eq=False)
class _Roll:
    """What was rolled, and by how much along which axes."""

    of: Tensor
    out: Tensor
    moves: tuple[Move, ...]
    source: str | None
    before: set[Any] = field(default_factory=set)

    def leads_to(self, tensor: Tensor) -> bool:
        """Whether what was rolled was made of that tensor."""
        if tensor is self.of:
            return True
        node = tensor.grad_fn
        if node is not None and not self.before:
            self.before.update(_behind(self.of))
        return node is not None and node in self.before


@dataclass(frozen=True, slots=True)
class Displaced:
    """A sum of a tensor and of what came of it, which lies so many places beside it.

    site: the module that adds them. moved: places, by axis. source: of the last roll, after the
    first.
    """

    site: str
    moved: tuple[Move, ...]
    source: str | None
    first: str | None


class Rolls(TorchFunctionMode):
    """While it is entered, `found` lists what meets its source after rolls that do not cancel.

    Told are two rolls or more along the same axes, one made of the other, by which no place gets
    anything of its own, but of several others.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Displaced] = []
        self._names = names_of(model)
        self._rolled: dict[int, tuple[Tensor, tuple[_Roll, ...]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function's result, and what was rolled on its way."""
        given = kwargs or {}
        out = func(*args, **given)
        name = getattr(func, "__name__", "").strip("_")
        if name == "roll" and isinstance(out, Tensor) and out.requires_grad:
            self._roll(args, given, out)
        elif self._rolled:
            self._follow(name, [*tensors_in(args), *tensors_in([*given.values()])], out)
        return out

    def _roll(self, args: Sequence[Any], given: Mapping[str, Any], out: Tensor) -> None:
        of = args[0] if args else given.get("input")
        shifts = args[1] if len(args) > 1 else given.get("shifts")
        axes = args[2] if len(args) > 2 else given.get("dims")
        if not isinstance(of, Tensor) or axes in (None, (), []):
            return
        pairs = zip(_many(shifts), _many(axes), strict=True)
        moves = [(axis % of.ndim, of.shape[axis], by % of.shape[axis]) for by, axis in pairs]
        rolls = self._rolled[id(of)][1] if id(of) in self._rolled else ()
        own = _Roll(of, out, tuple(sorted(each for each in moves if each[2])), source_here())
        undone = _undone(rolls, own)
        kept = tuple(each for each in rolls if each is not undone)
        self._rolled[id(out)] = out, kept if undone is not None else (*rolls, own)

    def _follow(self, name: str, given: Sequence[Tensor], out: Any) -> None:
        """What is made of rolled things is as they are, until it meets what these were made of."""
        ways = {self._rolled[id(each)][1] for each in given if id(each) in self._rolled}
        rolls = ways.pop() if len(ways) == 1 else ()
        if not rolls:
            return
        plain = [each for each in given if id(each) not in self._rolled and each.requires_grad]
        met = next((each for each in plain if rolls[0].leads_to(each)), None)
        rolled = next(each for each in given if id(each) in self._rolled)
        moved = _net(rolls) if met is not None and name in MEETS else ()
        if met is not None and moved and _is_beside(rolled, met) and _reads_several(rolls):
            site = running(self._names) or LOSS
            self.found.append(Displaced(site, moved, rolls[-1].source, rolls[0].source))
        for made in tensors_in([out]):
            if met is None and made.requires_grad:
                self._rolled[id(made)] = made, rolls
            else:
                self._rolled.pop(id(made), None)


def _undone(rolls: Sequence[_Roll], own: _Roll) -> _Roll | None:
    """The roll that this one undoes: along its axes, or in whatever order axes lie by now."""
    back = sorted((axis, length, (-by) % length) for axis, length, by in own.moves)
    exact = (each for each in rolls if sorted(each.moves) == back)
    lengths = sorted(move[1:] for move in back)
    alike = (each for each in rolls if sorted(move[1:] for move in each.moves) == lengths)
    return next(exact, None) or next(alike, None)


def _net(rolls: Sequence[_Roll]) -> tuple[Move, ...]:
    """By how many places, and which way, what was rolled twice along an axis lies beside."""
    sums: dict[tuple[int, int], list[int]] = {}
    for axis, length, by in (move for each in rolls for move in each.moves):
        sums.setdefault((axis, length), []).append(by)
    net = [(*key, sum(each) % key[1]) for key, each in sums.items() if len(each) > 1]
    return tuple(
        (axis, length, by - length if by > length // 2 else by) for axis, length, by in net if by
    )


def displaced(experiment: Experiment) -> list[Displaced]:
    """What the loss adds to its own source, rolled and not rolled back."""
    if "displaced" not in experiment.memo:
        mode = Rolls(experiment.subject.model)
        if alive(experiment).rolled > 1:
            experiment.evaluate(experiment.batch, under=[mode, torch.enable_grad()])
        experiment.memo["displaced"] = mode.found
    found: list[Displaced] = experiment.memo["displaced"]
    return found


def _is_beside(rolled: Tensor, met: Tensor) -> bool:
    """Whether no number that is looked at, of those that read any, reads the one that it meets."""
    if rolled.shape != met.shape:
        return False
    flat, known = rolled.flatten(), False
    for part in PLACES:
        at = int(part * len(flat))
        grad = gradients(flat[at], [met])[0]
        if grad is None or not bool(grad.any()):
            continue
        size, known = grad.abs().flatten(), True
        if bool(size[at] > SMALL * size.max()):
            return False
    return known


def _reads_several(rolls: Sequence[_Roll]) -> bool:
    """Whether a place of what the last roll gave reads several of what the first was given."""
    of, out = rolls[0].of, rolls[-1].out
    if of.shape != out.shape or not of.requires_grad:
        return False
    axes = sorted({move[0] for each in rolls for move in each.moves})
    rest = [i for i in range(of.ndim) if i not in axes]
    place = out.permute(*axes, *rest)[tuple(out.shape[axis] // 2 for axis in axes)]
    weights = torch.linspace(0.5, 1.5, place.numel(), device=place.device).view(place.shape)
    grad = gradients((place * weights.cos()).sum(), [of])[0]
    if grad is None:
        return False
    size = grad.abs().permute(*axes, *rest).reshape(*(of.shape[axis] for axis in axes), -1).amax(-1)
    return int((size > SMALL * size.max()).sum()) > 1


def _behind(tensor: Tensor) -> Iterator[Any]:
    """The nodes of the graph that a tensor was made by."""
    nodes, seen = [tensor.grad_fn], set[Any]()
    while nodes and len(seen) < MOST:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [each for each, _ in node.next_functions]
            yield node


def _many(value: Any) -> list[int]:
    return [int(each) for each in value] if isinstance(value, (list, tuple)) else [int(value)]
