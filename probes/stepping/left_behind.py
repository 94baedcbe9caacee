"""Twins whose parameters follow those that learn, and whose statistics do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.overrides import TorchFunctionMode

from probes.experiment import LOSS, Experiment
from probes.raised import source_here
from probes.replay import RandomState, Snapshot, replay
from probes.stepping.beside import MODEL, modules_beside, with_beside
from probes.stepping.one_step import keep_strangers, made, take_step

STEPS = 12  # among which a twin may be renewed
FEWEST = 3  # steps in which its buffers stand still
TOWARDS = 0.9  # cosine of the way that it takes, and of the way to the other; rounding takes some

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """site: what learns. twin: what follows it. buffers: names in both that stand still in `twin`.

    farthest: the one whose mean is farthest off, with both means, and how far it is in shares of
    what stands in `site`. apart: by which share the outputs change where `twin` has those of
    `site`. source: the line that moves the twin's parameters. later: torch's own `update_bn` is at
    hand, by which statistics are to be had at the end.
    """

    site: str
    twin: str
    buffers: tuple[str, ...]
    farthest: str
    far: float
    means: tuple[float, float]
    steps: int
    apart: float
    source: str | None
    later: bool


def left_behind(experiment: Experiment) -> LeftBehind | None:
    """The outermost twin that outputs hang on most; None without one. Steps are undone.

    It may stand beside the model, where `predict` reaches it by its name.
    Raises ExperimentError where a step raises.
    """
    subject, found = experiment.subject, list[LeftBehind]()
    beside = modules_beside(subject)
    model = with_beside(subject.model, beside) if beside else subject.model
    learning = {
        f"{MODEL}.{name}" if beside else name
        for name, grad in experiment.stepped.grads.items()
        if grad is not None
    }
    if not any(True for _ in _twins(model, learning)):
        return None

    def step() -> Tensor:
        loop = made(subject)
        follows, start = _Follows(model, learning), _copies(dict(model.named_buffers()))
        for count in range(1, STEPS + 1):
            with follows:
                take_step(loop, experiment.step_batch)
            follows.note()
            if follows.pairs and count >= FEWEST:
                break
        for site, twin in follows.pairs:
            found.extend(_of(experiment, follows, (site, twin), start, count))
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, subject.model, Snapshot.take(subject.model, parameters=True))
    return max(found, key=lambda each: each.apart, default=None)


class _Follows(TorchFunctionMode):
    """Notes after each step which twins were moved towards what learns, and by which lines."""

    def __init__(self, model: nn.Module, learning: set[str]) -> None:
        super().__init__()
        self.pairs: list[tuple[str, str]] = []
        self.sources: dict[int, str | None] = {}
        self.model, self._twins = model, list(_twins(model, learning))
        self._before = _copies(dict(model.named_parameters()))
        others = (p for name, p in model.named_parameters() if name not in learning)
        self._watched = {_memory(p): id(p) for p in others}

    def note(self) -> None:
        """After a step."""
        now = dict(self.model.named_parameters())
        for site, twin in self._twins if now.keys() == self._before.keys() else ():
            inside = any(_is_in(twin, known) for _, known in self.pairs)
            if not inside and self._is_towards(site, twin, now):
                self.pairs.append((site, twin))
        self._before = _copies(now)

    def _is_towards(self, site: str, twin: str, now: Tensors) -> bool:
        names = [name for name, _ in self.model.get_submodule(twin).named_parameters()]
        ones, others = ([f"{at}.{n}" for n in names] for at in (site, twin))
        if all(torch.equal(now[n], self._before[n]) for n in others):
            return False
        start, end = _flat(self._before, others), _flat(now, others)
        way = end - start
        goals = (_flat(known, ones) - start for known in (now, self._before))
        return any(float(way @ g) > TOWARDS * float(way.norm() * g.norm()) for g in goals)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The function has run as it would have."""
        name = getattr(func, "__name__", "")
        if args and (name == "__set__" or name.endswith("_")):
            several = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            for each in several:
                known = self._watched.get(_memory(each)) if isinstance(each, Tensor) else None
                if known is not None:
                    self.sources[known] = source_here()
        return func(*args, **(kwargs or {}))


def _of(
    experiment: Experiment, follows: _Follows, pair: tuple[str, str], start: Tensors, steps: int
) -> Iterator[LeftBehind]:
    """Where the outputs hang on buffers of the twin that stood still."""
    model, (site, twin) = follows.model, pair
    one, other = model.get_submodule(site), model.get_submodule(twin)
    own, theirs = dict(one.named_buffers()), dict(other.named_buffers())
    left = [
        name
        for name, each in theirs.items()
        if each.is_floating_point()
        and name in own
        and own[name].shape == each.shape
        and _stands(each, start.get(f"{twin}.{name}"))
        and not _stands(own[name], start.get(f"{site}.{name}"))
    ]
    if not left:
        return
    means = {n: (float(theirs[n].mean()), float(own[n].mean())) for n in left}
    farthest = max(left, key=lambda name: abs(means[name][0] - means[name][1]))
    far = _share(own[farthest], theirs[farthest])
    apart = _effect(experiment, [(theirs[name], own[name]) for name in left])
    sources = (follows.sources.get(id(p)) for p in other.parameters())
    yield LeftBehind(
        "model" if site == MODEL else site.removeprefix(f"{MODEL}."),
        twin,
        tuple(left),
        farthest,
        far,
        means[farthest],
        steps,
        apart,
        next(filter(None, sources), None),
        _is_later(experiment),
    )


def _is_later(experiment: Experiment) -> bool:
    seen = getattr(experiment.subject.predict, "__globals__", {})
    return any(each is update_bn for each in seen.values())


def _stands(now: Tensor, before: Tensor | None) -> bool:
    return before is not None and torch.equal(now, before)


def _effect(experiment: Experiment, put: list[tuple[Tensor, Tensor]]) -> float:
    """The largest share by which an output changes where the first have the second's numbers.

    Those that change by themselves are left out.
    """
    state = RandomState.take()

    def once() -> dict[str, Tensor]:
        state.restore()
        found = experiment.once(experiment.batch)
        return {n: t.detach().double().clone() for n, t in found.items() if n != LOSS}

    before, again = once(), once()
    with torch.no_grad():
        for into, of in put:
            into.copy_(of)
    after = once()
    return max(
        (
            _share(before[name], after[name])
            for name in before
            if name in after and name in again and torch.equal(before[name], again[name])
        ),
        default=0.0,
    )


def _share(one: Tensor, two: Tensor) -> float:
    if one.shape != two.shape:
        return 1.0
    apart = torch.where(one == two, 0.0, one - two)  # both may be infinite
    return float(apart.norm() / one.nan_to_num(0.0, 0.0, 0.0).norm().clamp_min(1e-12))


def _twins(model: nn.Module, learning: set[str]) -> Iterator[tuple[str, str]]:
    """Parts that are built alike and have buffers, of which the first learns and the second not."""
    ones: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    others: list[tuple[tuple[Any, ...], str]] = []
    for site, module in model.named_modules():
        own = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
        held = [(name, tuple(b.shape)) for name, b in module.named_buffers()]
        if not site or not own or not any(b.is_floating_point() for b in module.buffers()):
            continue
        kind = (type(module), *own, None, *held)
        if any(f"{site}.{name}" in learning for name, _ in own):
            ones[kind].append(site)
        else:
            others.append((kind, site))
    for kind, twin in others:
        yield from ((site, twin) for site in ones[kind])


def _is_in(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _copies(named: Tensors) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def _flat(named: Tensors, names: list[str]) -> Tensor:
    return torch.cat([named[name].detach().double().flatten() for name in names])


def _memory(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # it has none, as a sparse one
        return 0
