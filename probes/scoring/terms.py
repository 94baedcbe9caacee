"""The named terms of a loss: their gradients side by side, and what each of them moves with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.batch import sample_count, take
from probes.compare import NOISES
from probes.experiment import Experiment, attempted, copied, with_leaf
from probes.finding import ExperimentError
from probes.first_step import first_batch
from probes.masking.longer import Longer
from probes.replay import Snapshot, replay
from probes.scoring.addends import Part, addends, part
from probes.seeding import seed_everything
from probes.subject import Batch
from probes.vary import vary

MOST = 6  # terms that the loss is looked into for
MANY = 8  # times each sample, where chance is to be averaged out
FAR = 20.0  # times as large: from there on shared layers follow one term alone


@dataclass(frozen=True)
class Terms:
    """The gradients of the terms on what all of them reach.

    names: of the terms, as `Subject.parts` has them. shared: the parameters. norms: (term,).
    wanted: whether the smallest and the largest are scored, and not weighed apart on purpose.
    summed: whether the largest is a sum over the samples beside a smallest that is a mean, and so
    far from it in a whole batch. more: how many times as many samples that has.
    """

    names: tuple[str, ...]
    shared: tuple[str, ...]
    norms: Tensor
    wanted: bool = False
    summed: bool = False
    more: float = 1.0

    @property
    def small(self) -> str:
        """The term of the smallest gradient."""
        return self.names[int(self.norms.argmin())]

    @property
    def large(self) -> str:
        """The term of the largest gradient."""
        return self.names[int(self.norms.argmax())]

    @property
    def times(self) -> float:
        """By how much the largest gradient exceeds the smallest."""
        return float(self.norms.max() / self.norms.min())


def terms(experiment: Experiment, far: float = FAR) -> Terms:
    """The terms as they are, measured once; more is known where they are so far apart.

    Raises ExperimentError where no parameter is reached by all, or where a term raises.
    """
    if "terms" not in experiment.memo:
        experiment.memo["terms"] = _terms(experiment, far)
    known: Terms = experiment.memo["terms"]
    return known


def _terms(experiment: Experiment, far: float) -> Terms:
    names, named = tuple(parts(experiment)), len(experiment.subject.parts) > 1
    grads = [_gradient(experiment, name, experiment.batch) for name in names]
    shared = tuple(n for n in grads[0] if all(bool(g.get(n, _NONE).any()) for g in grads))
    if not shared:
        raise ExperimentError("there is no parameter that all parts reach")
    joined = torch.stack([torch.cat([g[n].flatten() for n in shared]) for g in grads])
    uncut = sample_count(first_batch(experiment.subject), experiment.layout) or 0
    more = max(1.0, uncut / (experiment.size or 1))
    found = Terms(names, shared, joined.norm(dim=1), more=more)
    if not found.times * more >= far:
        return found
    if not named:  # each is as the loss weighs it
        by_name = dict(zip(names, _weighed(experiment), strict=True))
        heavy = abs(by_name[found.large]) > far / 4 * abs(by_name[found.small])
        return replace(found, summed=not heavy and _is_sum_beside_mean(experiment, found))
    weights = _weights(experiment, joined, shared)
    rate = 1.0  # by how much the loss weighs the largest more than the smallest
    if weights is not None:
        large, small = (abs(float(weights[names.index(n)])) for n in (found.large, found.small))
        rate = large / small if small else math.inf
    if rate > far / 4:
        return found  # weighed so on purpose
    both = (found.small, found.large)
    scored = found.times >= far and all(_is_scored(experiment, name) for name in both)
    summed = found.times * rate * more >= far and _is_sum_beside_mean(experiment, found)
    return replace(found, wanted=scored, summed=summed)


def parts(experiment: Experiment) -> Mapping[str, Part]:
    """`Subject.parts` where they name two terms at least, else what the loss is the sum of.

    Raises ExperimentError where the loss raises.
    """
    named = experiment.subject.parts
    if len(named) > 1:
        return named
    found = _addends(experiment)
    return {name: part(experiment.subject, place) for name, _, place in found}


def _weighed(experiment: Experiment) -> list[float]:
    return [weight for _, weight, _ in _addends(experiment)]


def _addends(experiment: Experiment) -> list[tuple[str, float, int]]:
    """How the terms of the loss that learn are called, what each is multiplied by, its place."""
    subject, memo = experiment.subject, experiment.memo
    if "addends" in memo:
        known: list[tuple[str, float, int]] = memo["addends"]
        return known
    found = list[tuple[str, float, int]]()

    def step() -> Tensor:
        with attempted("`Subject.loss`"):
            terms = addends(subject, subject.model.eval(), copied(experiment.batch))
        names = [each.name for each in terms]
        for i, each in enumerate(terms):
            name = f"{each.name} ({i + 1})" if names.count(each.name) > 1 else each.name
            if each.value.requires_grad:
                found.append((name, each.weight, i))
        return torch.zeros(())

    replay(step, subject.model, Snapshot.take(subject.model))
    memo["addends"] = found if 1 < len(found) <= MOST else []
    return _addends(experiment)


def grown(experiment: Experiment, name: str, each: Longer) -> float | None:
    """By what a term is multiplied in the batch with more padding; None where it stays.

    Raises ExperimentError where the term raises.
    """
    before, after = (
        float(_value(experiment, name, batch)) for batch in (experiment.batch, each.batch)
    )
    limit = max(NOISES * experiment.evaluated.noise, experiment.evaluated.ran.rounding * before)
    return after / before if before and abs(after - before) > limit else None


_NONE = torch.zeros(1, device="cpu")


def _gradient(experiment: Experiment, name: str | None, batch: Batch) -> dict[str, Tensor]:
    """Of a part, or of the loss itself, by parameter; in evaluation mode, without draws."""
    subject = experiment.subject
    function = subject.loss if name is None else parts(experiment)[name]
    what = "`Subject.loss`" if name is None or not subject.parts else _quoted(name)

    def step() -> Tensor:
        model = subject.model.eval()
        with attempted(what):
            loss = function(model, copied(batch))
        if loss.requires_grad:
            loss.backward()
        return loss

    done = replay(step, subject.model, Snapshot.take(subject.model))
    return {n: g.to_dense().double() for n, g in done.grads.items() if g is not None}


def _quoted(name: str) -> str:
    return f"`Subject.parts[{name!r}]`"


def _value(experiment: Experiment, name: str, batch: Batch, seed: int | None = None) -> Tensor:
    """Of a part, in evaluation mode. seed: for another random state."""
    value, model = parts(experiment)[name], experiment.subject.model

    def step() -> Tensor:
        if seed is not None:
            seed_everything(seed)
        with attempted(_quoted(name)), torch.no_grad():
            return value(model.eval(), copied(batch))

    return replay(step, model, Snapshot.take(model)).loss


def _is_sum_beside_mean(experiment: Experiment, found: Terms) -> bool:
    """Whether the largest term doubles with every sample twice, and the smallest stays.

    What stays whatever samples there are, as a penalty on weights, is no mean over them.
    """
    if experiment.size < 2:
        return False
    try:
        large, small = (_growth(experiment, name) for name in (found.large, found.small))
        return (
            abs(large.by - 1) <= large.error
            and abs(small.by) <= small.error
            and _hangs_on_samples(experiment, found.small)
        )
    except ExperimentError:
        return False


@dataclass(frozen=True, slots=True)
class _Growth:
    """by: the power of the number of samples with which a term grows: 1 a sum, 0 a mean."""

    by: float
    error: float


def _growth(experiment: Experiment, name: str) -> _Growth:
    """From the batch to every sample twice; what draws at random, from twice to many times."""
    drawn = float(_value(experiment, name, experiment.batch, seed=1)) != float(
        _value(experiment, name, experiment.batch)
    )
    few, many, error = (2, 2 * MANY, 0.15) if drawn else (1, 2, 0.015)

    def value(times: int) -> float:
        rows = [*range(experiment.size)] * times
        return float(_value(experiment, name, take(experiment.batch, rows, experiment.layout)))

    before = value(few)
    by = value(many) / before if before else 0.0
    return _Growth(math.log(by) / math.log(many / few) if by > 0 else math.nan, error)


def _hangs_on_samples(experiment: Experiment, name: str) -> bool:
    half = take(experiment.batch, range(experiment.size // 2), experiment.layout)
    whole, part = (_value(experiment, name, each) for each in (experiment.batch, half))
    return abs(float(part - whole)) > NOISES * experiment.evaluated.noise


def _is_scored(experiment: Experiment, name: str) -> bool:
    """Whether a part moves with a key that no output reads, as labels are."""
    before = _value(experiment, name, experiment.batch)
    for key in _unread(experiment):
        other = vary(experiment.tensors[key], torch.ones((), dtype=torch.bool))
        if other is None:
            continue
        try:
            after = _value(experiment, name, with_leaf(experiment.batch, key, other))
        except ExperimentError:
            continue
        if abs(float(after - before)) > NOISES * experiment.evaluated.noise:
            return True
    return False


def _unread(experiment: Experiment) -> Iterator[str]:
    """The declared or guessed labels, then the other keys that no output reads."""
    known = [each.key for each in experiment.layout.labels if each.key in experiment.tensors]
    yield from known
    for key, tensor in experiment.tensors.items():
        if key not in known and _is_unread(experiment, key, tensor):
            yield key


def _is_unread(experiment: Experiment, key: str, tensor: Tensor) -> bool:
    other = vary(tensor, torch.ones((), dtype=torch.bool))
    if other is None:
        return False
    try:
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    except ExperimentError:
        return False
    return all(
        name in ran.outputs and torch.equal(ran.outputs[name], value)
        for name, value in experiment.outputs.items()
    )


def _weights(experiment: Experiment, parts: Tensor, shared: tuple[str, ...]) -> Tensor | None:
    """By what the loss weighs each part; None where it is not made of them."""
    whole = _gradient(experiment, None, experiment.batch)
    if not all(name in whole for name in shared):
        return None
    wanted = torch.cat([whole[name].flatten() for name in shared])
    scale = parts.norm(dim=1)
    ways = parts / scale[:, None]
    mixed = ways @ ways.T + 1e-12 * torch.eye(len(ways), device="cpu").to(ways)
    found = torch.linalg.solve(mixed, ways @ wanted)
    return None if (ways.T @ found - wanted).norm() > 0.01 * wanted.norm() else found / scale
