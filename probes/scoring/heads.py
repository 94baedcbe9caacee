"""Heads: modules between whose output and the loss nothing learns, their twins, who reads what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probes.ancestry import leaves_behind, nodes_behind
from probes.bus import Bus, Kind, See
from probes.experiment import Experiment, attempted, copied
from probes.modules import every_module
from probes.replay import Snapshot, replay
from probes.scoring.calls import Call, Scoring
from probes.subject import Batch

Make = tuple[type, tuple[tuple[str, torch.Size], ...]]


@dataclass(slots=True, eq=False)
class Seen:
    """What the calls of a module took and gave, in their order."""

    took: list[Tensor] = field(default_factory=list)
    gave: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Asked:
    """A pass in evaluation mode. calls: of torch's losses. made: what each returned. seen: by site.

    used: the nodes of autograd and the leaves that the loss hangs on.
    """

    loss: Tensor
    calls: tuple[Call, ...]
    made: tuple[Tensor, ...]
    seen: Mapping[str, Seen]
    used: frozenset[Any]

    def asks(self, site: str) -> list[int]:
        """The calls that score what this module gives, and come into the loss."""
        outs = {each.grad_fn for each in self.seen[site].gave} - {None}
        return [
            i
            for i, call in enumerate(self.calls)
            if self.made[i].grad_fn in self.used and _is_of(call.given, outs)
        ]


def asked(experiment: Experiment, batch: Batch) -> Asked:
    """The loss of a batch. Raises ExperimentError where it raises."""
    model, subject = experiment.subject.model, experiment.subject
    modules = {name for name, _ in every_module(model)}
    keeps, mode = _Keeps(), _Made()
    losses: list[Tensor] = []

    def step() -> Tensor:
        with attempted("`Subject.loss`, in evaluation mode,"):
            losses.append(subject.loss(model.eval(), copied(batch)))
        return losses[0].detach()

    with Bus(model, [keeps], whole=True) as bus:
        replay(step, model, Snapshot.take(model), under=[mode])
    seen = dict[str, Seen]()
    for number, tensor in keeps.found:
        site = bus.sites[number]
        name = site.name
        while name not in modules:
            name = name[: max(name.rfind("."), name.rfind("["))]
        one = seen.setdefault(name, Seen())
        (one.took if site.kind is Kind.INPUT else one.gave).append(tensor)
    used = frozenset([*nodes_behind(losses[0]), *map(id, leaves_behind(losses[0]))])
    return Asked(losses[0], tuple(mode.calls), tuple(mode.made), seen, used)


def make(module: nn.Module) -> Make:
    """What twins share: the class, and how their parameters are called and shaped."""
    return type(module), tuple((name, each.shape) for name, each in module.named_parameters())


def reads_the_same(model: nn.Module, seen: Asked, idle: str, used: str) -> bool:
    """Whether one takes just what the other does, itself or a twin of each that comes before it."""
    one, two = seen.seen[idle], seen.seen[used]
    if _shares(one.took, two.took):
        return True
    modules = dict(every_module(model))
    return any(
        make(modules[a]) == make(modules[b])
        and _shares(seen.seen[a].took, seen.seen[b].took)
        and _hangs(one.took, modules[a])
        and _hangs(two.took, modules[b])
        for a in _beside(seen, modules, idle)
        for b in _beside(seen, modules, used)
        if a != b and not _hangs(two.took, modules[a]) and not _hangs(one.took, modules[b])
    )


def _beside(seen: Asked, modules: Mapping[str, nn.Module], site: str) -> list[str]:
    """Modules with parameters that have the same parent."""
    parent = site.rpartition(".")[0]
    return [
        name
        for name in seen.seen
        if name != site
        and name.rpartition(".")[0] == parent
        and any(True for _ in modules[name].parameters())
    ]


def _shares(one: Iterable[Tensor], two: Sequence[Tensor]) -> bool:
    return any(same(a, b) for a in one for b in two if a.is_floating_point() or a.ndim > 1)


def same(one: Tensor, two: Tensor) -> bool:
    """Whether both hold the same numbers in the same shape."""
    alike = (one.shape, one.dtype, one.device) == (two.shape, two.dtype, two.device)
    return alike and one.layout is torch.strided and torch.equal(one, two)


def _hangs(tensors: Iterable[Tensor], module: nn.Module) -> bool:
    own = {id(each) for each in module.parameters()}
    return any(id(each) in own for each in leaves_behind(*tensors))


def _is_of(given: Tensor, outs: set[Any]) -> bool:
    """Whether all that learns behind these scores comes by way of the outputs."""
    todo, met, reached = [given.grad_fn], set[Any](), False
    while todo:
        node = todo.pop()
        if node is None or node in met:
            continue
        met.add(node)
        if node in outs:
            reached = True
        elif hasattr(node, "variable"):
            return False
        else:
            todo += [each for each, _ in node.next_functions]
    return reached


class _Made(Scoring):
    """Keeps what the losses returned beside what they were handed."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = len(self.calls)
        out = super().__torch_function__(func, types, args, kwargs)
        self.made += [out] * (len(self.calls) - before)
        return out


@dataclass(slots=True)
class _Keeps:
    found: list[tuple[int, Tensor]] = field(default_factory=list)
    sees: Mapping[Kind, See] = field(init=False)

    def __post_init__(self) -> None:
        self.sees = {Kind.INPUT: self.see, Kind.OUTPUT: self.see}

    def see(self, number: int, tensor: Tensor) -> None:
        self.found.append((number, tensor))


def idle_modules(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Those whose parameters are all among the names, the outermost first."""
    unused = set(names)
    for name, module in every_module(model):
        own = [f"{name}.{each}" for each, _ in module.named_parameters()]
        if own and unused.issuperset(own):
            yield name, module
