"""Numbers that stand beside what is to be learned, place by place, and are read a place late."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.reading.rows import looked
from probes.reading.told_by_columns import share_told
from probes.scoring.numbers_ahead import scored_here
from probes.vary import vary

LEAST = 6  # places
BEFORE = 2  # places before, of both keys, that are fitted beside a place's own
ITSELF = 0.99  # of the variance, told by one column alone
ROWS = 20  # for each column of the fit
KNOWN = re.compile(r"(^|_)(known|future|ahead|calendar|planned|scheduled)(_|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Late:
    """An output scored against a place of `labels`, that has read `key` up to the one before.

    site: the first module that is given it late. without, told, by_chance: shares of the labels'
    variance, on samples left out, that a linear fit tells by the places before, with the place's
    own of the key, and with that of another sample.
    """

    key: str
    labels: str
    output: str
    site: str
    without: float
    told: float
    by_chance: float

    @property
    def is_known(self) -> bool:
        """Whether the key is called what is known beforehand."""
        return bool(KNOWN.search(self.key.rpartition(".")[2]))


def late(experiment: Experiment) -> Iterator[Late]:
    """Keys of which every output reads all places but its own, and the last is never read."""
    for labels, output in scored_here(experiment):
        wanted = experiment.tensors[labels]
        for key, tensor in experiment.tensors.items():
            beside = tensor.is_floating_point() and tensor.shape[:2] == wanted.shape[:2]
            if not beside or key in (labels, *experiment.targets) or tensor.shape[1] < LEAST:
                continue
            site = _late_at(experiment, key, output)
            shares = None if site is None else _told(experiment, key, labels)
            if site is not None and shares is not None:
                yield Late(key, labels, output, site, *shares)


def _late_at(experiment: Experiment, key: str, output: str) -> str | None:
    """The first module that moves with the key, if outputs do from the next place on; else None."""
    count, site = experiment.tensors[key].shape[1], None
    for at in (count // 3, count // 2, count - 2, count - 1):
        only = torch.zeros(experiment.tensors[key].shape[:2], dtype=torch.bool, device="cpu")
        only[:, at] = True
        other = vary(experiment.tensors[key], only)
        if other is None:
            return None
        try:
            ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
        except ExperimentError:
            return None
        before = experiment.evaluated.ran.outputs
        limit = NOISES * experiment.evaluated.noise
        if at == count - 1:
            same = (gap(v, ran.outputs[n])[0] <= limit for n, v in before.items())
            return site if before.keys() == ran.outputs.keys() and all(same) else None
        if _first(before[output], ran.outputs.get(output)) != at + 1:
            return None
        sites = experiment.evaluated.against(ran).sites
        site = sites[0].module if sites else None
    return None


def _first(before: Tensor, after: Tensor | None) -> int | None:
    """The first place at which an output moved."""
    if after is None or after.shape != before.shape:
        return None
    moved = (after - before).abs().reshape(*before.shape[:2], -1).amax((0, 2))
    places = (moved > 1e-6 * float(before.abs().max())).nonzero().flatten()
    return int(places[0]) if len(places) else None


def _told(experiment: Experiment, key: str, labels: str) -> tuple[float, float, float] | None:
    """What the places before tell of the labels, with the own place, and with another sample's."""
    pairs = [(b[key], b[labels]) for b in looked(experiment) if key in b and labels in b]
    if not pairs or len({(x.shape[1:], y.shape[1:]) for x, y in pairs}) > 1:
        return None
    x = torch.cat([one for one, _ in pairs]).double().cpu()
    y = torch.cat([two for _, two in pairs]).double().cpu()
    x, y = x.reshape(*x.shape[:2], -1), y.reshape(*y.shape[:2], -1)
    past = [z[:, BEFORE - by : z.shape[1] - by] for by in range(1, BEFORE + 1) for z in (x, y)]
    own, other, wanted = x[:, BEFORE:], x.roll(2, 0)[:, BEFORE:], y[:, BEFORE:]
    fits = [torch.cat(each, 2) for each in (past, [*past, own], [*past, other])]
    if wanted.shape[0] * wanted.shape[1] < ROWS * fits[1].shape[2] or len(x) < 4:
        return None
    if any(_share(column, wanted) > ITSELF for column in own.split(1, 2)):
        return None  # the labels themselves are among them
    without, told, by_chance = (_share(each, wanted) for each in fits)
    return without, told, by_chance


def _share(rows: Tensor, wanted: Tensor) -> float:
    """Of the variance, in every other sample, after a fit to the rest."""
    fit, held = ((rows[i::2].flatten(0, 1), wanted[i::2].flatten(0, 1)) for i in (0, 1))
    return share_told(fit, held)
