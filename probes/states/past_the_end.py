"""Transitions whose next observation counts where an episode has ended, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from probes.batch import leaves, sample_count
from probes.bus import Kind
from probes.compare import NOISES, gap
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import ExperimentError
from probes.vary import vary

ENDS = re.compile(r"(^|_)(dones?|terminals?|terminated|terminations?|ended)$")
TURNED = re.compile(r"(^|_)(not?|non|isnt|never)(_|$)")
BATCHES = 8


@dataclass(frozen=True, slots=True)
class PastTheEnd:
    """The key is read where `flag` is 1, in `read` of `count` samples, and nowhere else."""

    key: str
    flag: str
    read: int
    count: int


def past_the_end(experiment: Experiment) -> Iterator[PastTheEnd]:
    """Keys that a module reads, and whose effect on the loss hangs on a flag of an end.

    With other content where the flag is 0 the loss stays, and where it is 1 it moves. Raises
    ExperimentError.
    """
    for flag, other in _with_ends(experiment):
        ends = other.tensors[flag] != 0
        for key, tensor in other.tensors.items():
            rows = tensor.is_floating_point() and len(tensor) == len(ends) and key != flag
            if rows and tensor.ndim > 1:
                moved = [_moves(other, key, where) for where in (~ends, ends)]
                if moved == [False, True]:
                    yield PastTheEnd(key, flag, int(ends.sum()), len(ends))
                    return


def _with_ends(experiment: Experiment) -> Iterator[tuple[str, Experiment]]:
    """Flags called after an end, with the first batch in which some are set and some are not."""
    batches = list(islice(experiment.subject.batches, BATCHES))
    for flag, tensor in experiment.tensors.items():
        name = flag.rpartition(".")[2].lower()
        if tensor.ndim != 1 or not ENDS.search(name) or TURNED.search(name):
            continue
        for batch in batches:
            held = leaves(batch).get(flag)
            if not isinstance(held, Tensor) or sample_count(batch, experiment.layout) is None:
                continue
            if set(held.unique().tolist()) == {0, 1}:
                yield flag, experiment.of_batch(batch)
                break


def _moves(experiment: Experiment, key: str, where: Tensor) -> bool | None:
    """Whether the loss moves with other content in these samples; None where no module does."""
    other = vary(experiment.tensors[key], where)
    if other is None:
        return None
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    before = experiment.evaluated
    if not any(site.kind is Kind.OUTPUT for site in before.against(ran).sites):
        return None
    if LOSS not in ran.outputs or LOSS not in before.ran.outputs:
        raise ExperimentError("the loss could not be had")
    return gap(before.ran.outputs[LOSS], ran.outputs[LOSS])[0] > NOISES * before.noise
