"""Units that a key of lengths counts, and where they stand: between separators, or end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.end_to_end import Row, end_to_end
from probes.reading.rows import looked
from probes.reading.separators import LEAST, ROWS, SHARE, shared_by_units

FRONTS = 3  # tokens that may stand before the first unit


@dataclass(frozen=True)
class Counted:
    """Units of a key of ids, as long as a key of lengths says.

    tokens: (sample, unit, token) boolean, the unit's own. beside: what stands just before and
    after it, where an id stands once between two of them; None where they lie end to end.
    """

    lengths: str
    of: str
    tokens: Tensor
    beside: Tensor | None


@dataclass(frozen=True)
class _Form:
    """How units stand among separators.

    leads: whether one stands before the first unit. apart: how many tokens stand between two units,
    the separator first.
    """

    separator: int
    leads: bool
    apart: int

    def starts(self, ids: Sequence[int], lengths: Sequence[int]) -> list[int] | None:
        """Where each unit begins; None where not each ends where its length says."""
        places = [i for i, one in enumerate(ids) if one == self.separator]
        found = [place + self.apart for place in places]
        if not self.leads:
            found = [places[0] - lengths[0], *found] if places else []
        ends = places[1:] if self.leads else places
        if len(found) - len(lengths) not in (0, 1) or found[0] < 0:
            return None
        found = found[: len(lengths)]
        fits = all(low + long == end for low, long, end in zip(found, lengths, ends, strict=False))
        return found if fits and found[-1] + lengths[-1] <= len(ids) else None


def counted(experiment: Experiment) -> list[Counted]:
    """Every key of ids with a key that counts, in nearly all samples, what its units are long."""
    if "counted units" not in experiment.memo:
        experiment.memo["counted units"] = list(_all(experiment))
    found: list[Counted] = experiment.memo["counted units"]
    return found


def _all(experiment: Experiment) -> Iterator[Counted]:
    for key, lengths in experiment.tensors.items():
        if key in experiment.targets or not _are_lengths(lengths, experiment.size):
            continue
        for of, ids in experiment.tensors.items():
            if of == key or not _are_ids(ids, lengths):
                continue
            rows = list(islice(_rows(experiment, key, of), ROWS))
            if (form := _form(rows)) is not None:
                yield Counted(key, of, *_laid(form, ids, lengths))
            elif (plain := end_to_end(rows)) is not None:
                yield Counted(key, of, plain.laid(ids, lengths), None)


def _are_lengths(tensor: Tensor, size: int) -> bool:
    """Whole numbers by sample and unit, zero from where a row has no more units."""
    whole = not tensor.is_floating_point() and tensor.dtype is not torch.bool
    if not whole or tensor.ndim != 2 or len(tensor) != size or tensor.shape[1] < 3:
        return False
    there = tensor > 0
    return bool((tensor >= 0).all()) and bool((there[:, :-1] >= there[:, 1:]).all())


def _are_ids(tensor: Tensor, lengths: Tensor) -> bool:
    if tensor.is_floating_point() or tensor.dtype is torch.bool or tensor.ndim != 2:
        return False
    return len(tensor) == len(lengths) and int(lengths.sum(1).max()) <= tensor.shape[1]


def _rows(experiment: Experiment, key: str, of: str) -> Iterator[Row]:
    for batch in looked(experiment):
        if key not in batch or of not in batch:
            continue
        for lengths, ids in zip(batch[key].tolist(), batch[of].tolist(), strict=True):
            units = [one for one in lengths if one > 0]
            if units:
                yield ids, units


def _form(rows: Sequence[Row]) -> _Form | None:
    """The one that nearly all rows fit, of units that are not all as long."""
    inner = [one for _, lengths in rows for one in lengths[1:]]
    if sum(len(lengths) > 2 for _, lengths in rows) < LEAST or len(set(inner)) < 2:
        return None
    separators = sorted(shared_by_units([(ids, len(lengths)) for ids, lengths in rows]))
    forms = (_Form(*each) for each in product(separators, (False, True), (1, 2)))
    return next((form for form in forms if _fits(form, rows)), None)


def _fits(form: _Form, rows: Sequence[Row]) -> bool:
    """Whether units stand so, the same id before each of them, and as many in front of all."""
    known = [(ids, form.starts(ids, lengths)) for ids, lengths in rows]
    fits = [(ids, starts) for ids, starts in known if starts is not None]
    if len(fits) < SHARE * len(rows):
        return False
    fronts = {starts[0] for _, starts in fits}
    heads = {ids[low - 1] for ids, starts in fits for low in starts[1:]}
    rises = all(one < two for _, starts in fits for one, two in pairwise(starts))
    return len(fronts) == 1 and max(fronts) <= FRONTS and len(heads) == 1 and rises


def _laid(form: _Form, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of the units of a batch, and what stands beside them."""
    tokens = torch.zeros(*lengths.shape, ids.shape[1], dtype=torch.bool, device="cpu")
    beside = torch.zeros_like(tokens)
    for i, (row, own) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True)):
        units = [one for one in own if one > 0]
        for j, low in enumerate((form.starts(row, units) if units else None) or ()):
            high = low + units[j]
            tokens[i, j, low:high] = True
            beside[i, j, max(0, low - form.apart) : low] = True
            beside[i, j, high : high + form.apart] = True
    return tokens.to(ids.device), beside.to(ids.device)
