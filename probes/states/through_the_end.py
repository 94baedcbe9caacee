"""Targets that go on from the next observation where an episode is over, as anywhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from probes.batch import leaves
from probes.compare import NOISES, gap
from probes.experiment import Experiment, with_leaf
from probes.reading.rows import looked
from probes.states.bootstrapped import Bootstrap, Bootstraps
from probes.states.past_the_end import BATCHES, ENDS, TURNED
from probes.stepping.aim import updates
from probes.stepping.one_step import step_under
from probes.subject import Batch, Subject
from probes.vary import vary

LAST = re.compile(r"(^|_)(ends?|last|is_last|finished|game_over|over)$")
GOES_ON = re.compile(r"(^|_)(masks?|continues?|alive)$")
FEWEST = 3  # ends, and as many others
COLUMNS = 512  # of each key
CHANCE = 1e-3  # that flags drawn by chance part the transitions so


@dataclass(frozen=True, slots=True)
class Through:
    """Nobody reads `flag`, by which an episode is over in `ends` of `count` samples.

    bootstrap: what goes on there. told: what is otherwise at the ends than elsewhere.
    """

    flag: str
    ends: int
    count: int
    bootstrap: Bootstrap
    told: str


def through_the_end(experiment: Experiment) -> Iterator[Through]:
    """Flags of ends that nobody reads, beside a target that goes on from what comes next.

    Through an end that the clock alone has set a target goes on rightly: so the reward is another
    where it is set, or the next observation is further away than elsewhere, as the first of another
    episode is, or is where none is acted from. A state behind it that is stayed in for ever is part
    of the game. Raises ExperimentError.
    """
    flags = list(_flags(experiment))
    if not flags:
        return
    found = _bootstraps(experiment)
    for key, value in flags if found else ():
        other = _with_both(experiment, key)
        if other is None or _is_read(other, key):
            continue
        for each in found:
            known = _known(experiment, key, value, each)
            if known is not None:
                yield known
                return


def _flags(experiment: Experiment) -> Iterator[tuple[str, int]]:
    """Keys that are called after an end, or after going on, with what they hold at an end."""
    for key, tensor in experiment.tensors.items():
        name = key.rpartition(".")[2].lower()
        if tensor.ndim and bool(((tensor == 0) | (tensor == 1)).all()):
            turned = TURNED.search(name) is not None
            if ENDS.search(name) or LAST.search(name) or re.search(r"non_?terminal", name):
                yield key, 0 if turned or "nonterminal" in name else 1
            elif re.search(r"not_?done", name) or GOES_ON.search(name):
                yield key, 0


def _with_both(experiment: Experiment, key: str) -> Experiment | None:
    """The first batch in which some flags are set, and some are not."""
    for batch in islice(experiment.subject.batches, BATCHES):
        held = leaves(batch).get(key)
        if isinstance(held, Tensor) and set(held.unique().tolist()) == {0, 1}:
            return experiment.of_batch(batch)
    return None


def _is_read(experiment: Experiment, key: str) -> bool:
    """Whether an output, the loss or the step moves with other flags."""
    other = vary(experiment.tensors[key], torch.ones((), dtype=torch.bool))
    if other is None:
        return True
    batch = with_leaf(experiment.batch, key, other)
    before, ran = experiment.evaluated, experiment.evaluate(batch).outputs
    limit = NOISES * before.noise
    if any(n not in ran or gap(v, ran[n])[0] > limit for n, v in before.ran.outputs.items()):
        return True
    if experiment.subject.train_step is None:
        return False
    both = (updates(experiment.subject, each) for each in (experiment.batch, batch))
    one, two = ([each.losses for each in found] for found in both)
    return one != two


def _bootstraps(experiment: Experiment) -> list[Bootstrap]:
    """What the targets of one step go on from."""
    subject, mode = experiment.subject, Bootstraps()
    own = subject.train_step

    def loss(model: Any, batch: Batch) -> Tensor:
        mode.given(leaves(batch))
        return subject.loss(model, batch)

    def train_step(model: Any, batch: Batch, optimizer: Optimizer) -> Tensor:
        assert own is not None
        mode.given(leaves(batch))
        return own(model, batch, optimizer)

    traced: Subject = replace(subject, loss=loss)
    if own is not None:
        traced = replace(traced, train_step=train_step)
    step_under(traced, experiment.step_batch, mode)
    return mode.targets


def _known(experiment: Experiment, key: str, value: int, found: Bootstrap) -> Through | None:
    """None of too few ends, or where they are as any other transition."""
    asked = {key, *found.reward, *found.later, *found.now}
    rows = [batch for batch in looked(experiment) if asked <= batch.keys()]
    if not rows:
        return None
    ends = torch.cat([batch[key].flatten() == value for batch in rows]).cpu()
    if min(int(ends.sum()), int((~ends).sum())) < FEWEST:
        return None
    told = []
    reward = _columns(rows, found.reward, key)
    if reward is not None and _part(reward, ends):
        told.append(_named(found.reward))
    later, now = _columns(rows, found.later, key), _columns(rows, _alike(rows[0], found), key)
    if later is not None and now is not None and now.shape == later.shape:
        if _stays(now, later, ends):
            return None
        beyond = (later < now.min(0).values) | (later > now.max(0).values)
        far = torch.stack([(later - now).norm(dim=1), beyond.any(1).double()], 1)
        if _part(far, ends):
            told.append(_named(found.later))
    if not told:
        return None
    return Through(key, int(ends.sum()), len(ends), found, " and ".join(told))


def _alike(batch: dict[str, Tensor], found: Bootstrap) -> list[str]:
    """What the prediction is made of, of the shape of what comes next: the state before that."""
    shapes = {batch[key].shape for key in found.later}
    return [key for key in found.now if {batch[key].shape} == shapes]


def _columns(rows: Iterable[dict[str, Tensor]], keys: Iterable[str], flag: str) -> Tensor | None:
    """(sample, column) numbers of keys with an entry for each flag; None without one."""
    found = []
    for batch in rows:
        n = batch[flag].numel()
        held = [batch[k] for k in sorted(keys) if batch[k].numel() % n == 0]
        if not held or any(each.is_complex() for each in held):
            return None
        flat = [each.detach().cpu().reshape(n, -1)[:, :COLUMNS].double() for each in held]
        found.append(torch.cat(flat, 1))
    widths = {each.shape[1] for each in found}
    return torch.cat(found) if len(widths) == 1 else None


def _part(columns: Tensor, ends: Tensor) -> bool:
    """Whether a column, or how far it is from its middle, ranks ends otherwise than by chance."""
    both = torch.cat([columns, (columns - columns.median(0).values).abs()], 1)
    ordered = both.sort(0).values.T.contiguous()
    values = both.T.contiguous()
    first = torch.searchsorted(ordered, values)
    ranks = (first + torch.searchsorted(ordered, values, right=True)).double() / 2
    n, few = len(ends), int(ends.sum())
    spread = ranks.var(1) / few * (1 - few / n)
    apart = (ranks[:, ends].mean(1) - ranks.mean(1)).abs()
    share = torch.tensor(1 - CHANCE / (2 * len(ranks)), dtype=torch.double, device="cpu")
    limit = torch.distributions.Normal(0.0, 1.0).icdf(share)
    return bool((apart > limit * spread.sqrt()).logical_and(spread > 0).any())


def _stays(now: Tensor, later: Tensor, ends: Tensor) -> bool:
    """Whether what comes behind each end is a state that only leads to itself."""
    still = now[(later == now).all(1)]
    behind = later[ends].unique(dim=0)
    return len(still) > 0 and all(bool((still == each).all(1).any()) for each in behind)


def _named(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in sorted(keys))
