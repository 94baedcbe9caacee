"""Scores that a loss holds against the labels of two heads, whose other head it asks nothing of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import torch
from torch import Tensor, nn

from probes.batch import leaves
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.reading.rows import looked
from probes.scoring.calls import Call
from probes.scoring.crosswise import named_as
from probes.scoring.heads import Asked, asked, idle_modules, make, reads_the_same, same
from probes.scoring.targets import varied

BATCHES = 3  # in which the head is idle, and the terms are weighed the same
ALIKE = 0.5  # of the labels: from there on they may be two opinions of one thing
STEADY = 1e-3  # by which what a term is weighed may differ


@dataclass(frozen=True, slots=True)
class AskedTwice:
    """One head is asked for what two are to give.

    idle: the head that nothing is asked of. names: its parameters. used: the one that is asked.
    keys: whose labels; one where both calls have the same. called: whether the idle one is, too.
    source: the line of the second call.
    """

    idle: str
    names: tuple[str, ...]
    used: str
    keys: tuple[str, ...]
    called: bool
    source: str | None


def asked_twice(experiment: Experiment, names: Sequence[str]) -> Iterator[AskedTwice]:
    """Each such head, of parameters that the loss does not depend on.

    There must be as many heads of one make as keys of labels. Where the terms are weighed by what
    is drawn anew, or the labels are mostly the same, they are mixed, or two opinions of one thing.
    """
    try:
        yield from _asked_twice(experiment, names)
    except ExperimentError:
        return


def _asked_twice(experiment: Experiment, names: Sequence[str]) -> Iterator[AskedTwice]:
    model = experiment.subject.model
    modules = dict(every_module(model))
    idle = [
        (name, own)
        for name, own in idle_modules(model, names)
        if any(make(own) == make(m) for n, m in modules.items() if not _is_within(n, name))
    ]
    if not idle:
        return
    seen = asked(experiment, experiment.batch)
    if len(seen.calls) < 2:
        return
    heads = {n: asks for n in seen.seen if (asks := seen.asks(n)) and _trains(modules[n])}
    keys, told = keys_of_calls(experiment, seen), set[str]()
    for name, own in idle:
        if any(_is_within(name, each) for each in told):
            continue
        found = _of(experiment, seen, name, heads, keys, [n for n, _ in idle])
        if found is not None and _is_idle_elsewhere(experiment, own, found.used):
            told.add(name)
            yield found


def _of(
    experiment: Experiment,
    seen: Asked,
    name: str,
    heads: Mapping[str, Sequence[int]],
    keys: Sequence[frozenset[str]],
    idle: Sequence[str],
) -> AskedTwice | None:
    model = experiment.subject.model
    modules = dict(every_module(model))
    kind, called = make(modules[name]), name in seen.seen
    used = [n for n in heads if make(modules[n]) == kind and _are_twins(model, seen, name, n)]
    others = [n for n in idle if make(modules[n]) == kind]
    names = tuple(f"{name}.{each}" for each, _ in modules[name].named_parameters())
    wanted = {key for n in used for i in heads[n] for key in keys[i]}
    for n in used:
        for i, j in combinations(heads[n], 2):
            one, two = seen.calls[i], seen.calls[j]
            if not same(one.given, two.given):
                continue
            if called and len(used) == len(others) == 1 and _is_again(one, two, heads[n]):
                return AskedTwice(name, names, n, tuple(keys[i]), called, two.line)
            each = [*keys[i], *keys[j]]
            whole = len(used) + len(others) == len(wanted)
            if not whole or len(each) != 2 or not are_apart(experiment, *each):
                continue
            if named_as(each[0], each[1], {name}) and not named_as(each[1], each[0], {name}):
                each.reverse()
                two = one
            return AskedTwice(name, names, n, tuple(each), called, two.line)
    return None


def _are_twins(model: nn.Module, seen: Asked, name: str, used: str) -> bool:
    """Whether both read the same; or one that is never called stands beside the other."""
    if name not in seen.seen:
        return name.rpartition(".")[0] == used.rpartition(".")[0]
    return reads_the_same(model, seen, name, used)


def _is_again(one: Call, two: Call, asks: Sequence[int]) -> bool:
    """Whether the second call is the first one's again, and there are no more."""
    alike = (one.loss, one.smoothing, one.ignored) == (two.loss, two.smoothing, two.ignored)
    plain = not one.weighted and not two.weighted and one.by_place == two.by_place
    return len(asks) == 2 and alike and plain and same(one.labels, two.labels)


def keys_of_calls(experiment: Experiment, seen: Asked) -> list[frozenset[str]]:
    """Of which keys of labels each call's labels come; none of what has a part in several."""
    moved = dict[str, frozenset[int]]()
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        other = varied(tensor, torch.ones_like(tensor, dtype=torch.bool))
        if other is None:
            continue
        calls = asked(experiment, with_leaf(experiment.batch, key, other)).calls
        if len(calls) != len(seen.calls):
            raise ExperimentError(f"with other values in `{key}` other losses are called")
        pairs = enumerate(zip(seen.calls, calls, strict=True))
        moved[key] = frozenset(i for i, (a, b) in pairs if not same(a.labels, b.labels))
    return [
        frozenset(k for k, own in moved.items() if i in own and not _is_over(k, moved))
        for i in range(len(seen.calls))
    ]


def _is_over(key: str, moved: Mapping[str, frozenset[int]]) -> bool:
    """Whether the key has a part in all that another one makes, and in more: a mask of both."""
    return any(other and other < moved[key] for other in moved.values())


def are_apart(experiment: Experiment, one: str, two: str) -> bool:
    """Whether the keys are of one kind, and neither each other's labels nor mostly the same."""
    a, b = experiment.tensors[one], experiment.tensors[two]
    if one == two or (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    known = [(each[one], each[two]) for each in looked(experiment) if one in each and two in each]
    if all(torch.equal(x.flatten().sort()[0], y.flatten().sort()[0]) for x, y in known):
        return False
    x, y = (torch.cat([each[i].flatten() for each in known]) for i in (0, 1))
    if not x.is_floating_point():
        real = (x >= 0) | (y >= 0)
        return float((x == y)[real].double().mean()) < ALIKE
    x, y = x.double(), y.double()
    spread = (x.var() + y.var()) / 2
    return bool((x - y).square().mean() > 2 * (1 - ALIKE) * spread)


def _is_idle_elsewhere(experiment: Experiment, idle: nn.Module, used: str) -> bool:
    """Whether it is so in other batches as well, and the calls are weighed alike in all of them."""
    own, rates = [id(each) for each in idle.parameters()], list[Tensor]()
    batches = [experiment.batch, *islice(experiment.subject.batches, BATCHES)]
    for batch in batches:
        if not leaves(batch).keys() >= experiment.tensors.keys():
            return False
        seen = asked(experiment, batch)
        if used not in seen.seen or not seen.used.isdisjoint(own):
            return False
        rates.append(_rates(seen, seen.asks(used)))
    first = rates[0]
    return all(
        each.shape == first.shape and torch.allclose(each, first, rtol=STEADY) for each in rates
    )


def _rates(seen: Asked, calls: Sequence[int]) -> Tensor:
    """How much each call weighs in the loss beside the first; NaN where its places differ."""
    made = [seen.made[i] for i in calls]
    found = torch.autograd.grad(seen.loss, made, retain_graph=True, allow_unused=True)
    rates = torch.tensor([_rate(each) for each in found], dtype=torch.double, device="cpu")
    return rates / rates[:1]


def _rate(grad: Tensor | None) -> float:
    if grad is None or not grad.numel():
        return float("nan")
    alike = torch.allclose(grad, grad.flatten()[0].expand(grad.shape), rtol=STEADY)
    return float(grad.double().sum()) if alike else float("nan")


def _trains(module: nn.Module) -> bool:
    return any(each.requires_grad for each in module.parameters())


def _is_within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")
