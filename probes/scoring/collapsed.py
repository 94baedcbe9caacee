"""A penalty that is a sum beside an error that is a mean, so that the input is given up for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice, permutations

import torch
from torch import Tensor

from probes.ancestry import leaves_behind
from probes.batch import sample_count, take
from probes.experiment import LOSS, Experiment, attempted, copied
from probes.replay import Snapshot, replay
from probes.scoring.addends import Addend, addends, weighed
from probes.scoring.reductions import reduction
from probes.stepping.one_step import keep_strangers, made, take_step
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

LOOKS = (100, 200, 400)  # steps
BATCHES = 8  # which they take in turn
ROWS = 32  # of each
MOST = 10_000_000  # parameters, of a model that takes so many steps in no time
WITHIN = 4.0  # a factor such as one half is no other unit
GONE = 0.1  # of what there is of it otherwise
ALL_BUT_GONE = 0.02  # the same, where there are no outputs to be looked at
BETTER = 0.9  # of the error, and less


@dataclass(frozen=True, slots=True, eq=False)
class Collapse:
    """The error is a mean of `numbers` of each sample, the penalty a sum of `summed`.

    After `steps` the penalty is `left`, and outputs differ among the samples by `spread` of what
    they do where it is divided by as many numbers, None without outputs: then it is `meant`, and
    the error is `better` in place of `worse`.
    """

    error: Addend
    penalty: Addend
    numbers: int
    summed: int
    steps: int
    left: float
    meant: float
    spread: float | None
    worse: float
    better: float


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """The places of the two terms in the loss, with what they are called."""

    error: int
    penalty: int
    terms: tuple[Addend, ...]
    numbers: int
    summed: int


@dataclass(frozen=True, slots=True)
class _After:
    """So many steps: the two terms, and how far samples are apart in each output."""

    steps: int
    error: float
    penalty: float
    spread: Mapping[str, float]


def collapsed(experiment: Experiment, least: float) -> Collapse | None:
    """What a training of some steps comes to, beside one in the same unit; all is undone.

    The error is a mean of `least` numbers or more of each sample. The penalty reaches a part of the
    parameters that the error reaches, as a divergence of what an encoder gives does.
    Raises ExperimentError where the loss raises, or a step.
    """
    pair = _pair(experiment, least)
    if pair is None or not experiment.minimises_loss:
        return None
    subject = replace(experiment.subject, train_step=None, schedule=None)
    other = replace(subject, loss=weighed(subject, pair.penalty, 1 / pair.numbers))
    sick = {each.steps: each for each in _trained(experiment, subject, pair)}
    known = list[Collapse]()

    def enough(sound: _After) -> bool:
        known[:] = _compared(pair, sick[sound.steps], sound)
        return bool(known)

    _trained(experiment, other, pair, enough)
    return known[0] if known else None


def _compared(pair: _Pair, one: _After, two: _After) -> list[Collapse]:
    """At most one, where the input is given up in the one training, and not in the other."""
    spread = _share(one.spread, two.spread)
    far = GONE if spread is not None else ALL_BUT_GONE
    gone = 0 <= one.penalty <= far * two.penalty and (spread is None or spread <= GONE)
    if not gone or not two.error <= BETTER * one.error:
        return []
    return [
        Collapse(
            error=pair.terms[pair.error],
            penalty=pair.terms[pair.penalty],
            numbers=pair.numbers,
            summed=pair.summed,
            steps=one.steps,
            left=one.penalty,
            meant=two.penalty,
            spread=spread,
            worse=one.error,
            better=two.error,
        )
    ]


def _pair(experiment: Experiment, least: float) -> _Pair | None:
    """The first two terms that are reduced so, in the subject's own mode, in which it draws."""
    subject, size, found = experiment.subject, experiment.size, list[_Pair]()

    def step() -> Tensor:
        with attempted("`Subject.loss`"):
            terms = addends(subject, subject.model, copied(experiment.batch))
        ways = [(i, each) for i, each in enumerate(terms) if each.value.requires_grad]
        reduced = {i: reduction(each.value) for i, each in ways}
        behind = {i: {id(leaf) for leaf in leaves_behind(each.value)} for i, each in ways}
        for error, penalty in permutations(behind, 2):
            one, two = reduced[error], reduced[penalty]
            if one is None or two is None or one.numbers % size or two.numbers % size:
                continue
            numbers, summed = one.numbers // size, two.numbers // size
            units = one.is_mean(WITHIN) and two.is_sum_over(size, WITHIN)
            if units and numbers >= least and summed > 1 and behind[penalty] < behind[error]:
                found.append(_Pair(error, penalty, terms, numbers, summed))
        return torch.zeros(())

    if size > 1 and sum(p.numel() for p in subject.model.parameters()) <= MOST:
        replay(step, subject.model, Snapshot.take(subject.model))
    return found[0] if found else None


def _trained(
    experiment: Experiment,
    subject: Subject,
    pair: _Pair,
    enough: Callable[[_After], bool] = lambda _: False,
) -> list[_After]:
    """What it has come to at each look, up to enough; the steps take its batches in turn."""
    model, found = subject.model, list[_After]()

    def step() -> Tensor:
        loop = made(subject)
        batches = cycle([_fewer(experiment, b) for b in islice(subject.batches, BATCHES)])
        for count in range(1, max(LOOKS) + 1):
            take_step(loop, next(batches))
            if count in LOOKS:
                found.append(_look(experiment, pair, count))
                if enough(found[-1]):
                    break
        return torch.zeros(())

    with ExitStack() as outside:
        keep_strangers(subject, outside)
        replay(step, model, Snapshot.take(model, parameters=True))
    return found


def _fewer(experiment: Experiment, batch: Batch) -> Batch:
    rows = sample_count(batch, experiment.layout) or 0
    return take(batch, range(ROWS), experiment.layout) if rows > ROWS else batch


def _look(experiment: Experiment, pair: _Pair, steps: int) -> _After:
    """In evaluation mode, as the parameters are now."""
    subject, model = experiment.subject, experiment.subject.model
    with undisturbed(model), torch.no_grad():
        outputs = experiment.once(experiment.batch)
        terms = addends(subject, model, copied(experiment.batch))
    error, penalty = (float(terms[place].value) for place in (pair.error, pair.penalty))
    spread = {
        name: float((value.double() - value.double().mean(0)).square().mean().sqrt())
        for name, value in outputs.items()
        if name != LOSS and experiment.sample_axis.get(name) == 0 and value.is_floating_point()
    }
    return _After(steps, error, penalty, spread)


def _share(one: Mapping[str, float], two: Mapping[str, float]) -> float | None:
    """The largest, over the outputs, of how far samples are apart in the one and in the other."""
    shares: Sequence[float] = [one[n] / two[n] if two[n] else 1.0 for n in one if n in two]
    return max(shares, default=None)
