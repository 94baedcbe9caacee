"""A few steps from the start, undone: what gets a gradient by then, and which units part."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from probes.replay import Snapshot, replay
from probes.stepping.hooked import before_steps
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.subject import Batch, Subject

STEPS = 4
RATE = 1e-3  # where a schedule begins at nothing, or nearly
ALIKE = 1e-6  # units differ by less than such a share of the largest weight


@dataclass(frozen=True, slots=True)
class Walked:
    """What the steps showed.

    largest: of each parameter that the optimizer holds and that had a gradient, the largest
    magnitude of it in any step. alike: weights that moved, and whose units are all the same still.
    moved: the parameters that changed. copies: modules beside each other that began with the same
    weights, learned, and have the same still.
    """

    largest: Mapping[str, float]
    alike: tuple[str, ...]
    moved: frozenset[str]
    copies: tuple[tuple[str, ...], ...]


def walk(subject: Subject, batch: Batch) -> Walked:
    """Some steps on one batch were taken and undone; a warm-up is left out.

    Raises ExperimentError where a step raises.
    """
    model, largest = subject.model, dict[str, float]()
    alike, moved, copies = list[str](), set[str](), list[tuple[str, ...]]()

    def step() -> Tensor:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        loop = made(replace(subject, schedule=None))
        names = {id(p): name for name, p in model.named_parameters()}

        def look(optimizer: Optimizer, *_: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = max(group.get("lr", RATE), RATE)
                for p in group["params"]:
                    if p.grad is not None and id(p) in names:
                        size = float(p.grad.to_dense().abs().max()) if p.grad.numel() else 0.0
                        largest[names[id(p)]] = max(size, largest.get(names[id(p)], 0.0))

        with before_steps(loop.optimizer, look):
            for _ in range(STEPS):
                take_step(loop, batch)
        alike.extend(_alike(model, before))
        moved.update(_moved(model, before))
        copies.extend(_copies(model, before, largest))
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return Walked(largest, tuple(alike), frozenset(moved), tuple(copies))


def _moved(model: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    now = model.named_parameters()
    return [n for n, p in now if n not in before or not torch.equal(p, before[n])]


def _alike(model: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    found = []
    for place, module in model.named_modules():
        for name, gates in _weights(module):
            weight, whole = getattr(module, name), f"{place}.{name}" if place else name
            if whole not in before or torch.equal(weight, before[whole]):
                continue
            units = weight.detach().reshape(gates, weight.shape[0] // gates, -1)
            apart = (units - units[:, :1]).abs().max()
            if units.shape[1] > 1 and apart <= ALIKE * units.abs().max():
                found.append(whole)
    return found


def _copies(
    model: nn.Module, before: Mapping[str, Tensor], largest: Mapping[str, float]
) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for place, parent in model.named_modules():
        rows: list[list[str]] = []
        for name, child in parent.named_children():
            whole = f"{place}.{name}" if place else name
            if not _learns(whole, child, before, largest):
                continue
            row = next((r for r in rows if _is_copy(model, r[0], child, whole, before)), None)
            rows.append([whole]) if row is None else row.append(whole)
        inside = [name for names in found for name in names]
        outer = not any(place == name or place.startswith(f"{name}.") for name in inside)
        found += [tuple(row) for row in rows if len(row) > 1 and outer]
    return found


def _learns(
    place: str, module: nn.Module, before: Mapping[str, Tensor], largest: Mapping[str, float]
) -> bool:
    """Whether a weight of it that was drawn at random has had a gradient and moved."""
    for name, p in module.named_parameters():
        first = before.get(f"{place}.{name}")
        if first is None or first.ndim < 2 or not largest.get(f"{place}.{name}", 0.0) > 0:
            continue
        if bool((first != first.flatten()[0]).any()) and not torch.equal(first, p):
            return True
    return False


def _is_copy(
    model: nn.Module, other: str, module: nn.Module, place: str, before: Mapping[str, Tensor]
) -> bool:
    """Whether both had, and have, the same parameters to the bit."""
    theirs, own = model.get_submodule(other), dict(module.named_parameters())
    others = dict(theirs.named_parameters())
    return type(theirs) is type(module) and own.keys() == others.keys() and all(
        others[name] is not p
        and p.shape == others[name].shape
        and _same(before.get(f"{place}.{name}"), before.get(f"{other}.{name}"))
        and torch.equal(p, others[name])
        for name, p in own.items()
    )  # fmt: skip


def _same(one: Tensor | None, two: Tensor | None) -> bool:
    return one is not None and two is not None and torch.equal(one, two)


def _weights(module: nn.Module) -> list[tuple[str, int]]:
    """The weights whose rows are units, with how many gates each has."""
    if isinstance(module, (nn.Linear, _ConvNd)) and isinstance(module.weight, nn.Parameter):
        return [("weight", 1)]
    if isinstance(module, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
        return [(name, gates) for name in vars(module)["_parameters"] if "weight_ih" in name]
    return []
