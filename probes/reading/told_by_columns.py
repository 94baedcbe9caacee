"""What columns tell of labels, by a linear fit that is asked about rows that it was not made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.reading.rows import looked

LEAST = 5  # rows for each column, in the half that the fit is made of
CLASSES = 12


@dataclass(frozen=True, slots=True)
class Told:
    """Shares of a label's variance, on rows left out: by the columns that are read, by all, and by
    those alone that are not."""

    labels: str
    read: float
    every: float
    alone: float


def told(experiment: Experiment, key: str, unread: Sequence[int]) -> Told | None:
    """Of the label of which the unread columns tell most beside the others; None without one."""
    found = list(_told(experiment, key, unread))
    return max(found, key=lambda each: each.every - each.read, default=None)


def _told(experiment: Experiment, key: str, unread: Sequence[int]) -> Iterator[Told]:
    batches = list(looked(experiment))
    width = experiment.tensors[key].shape[-1]
    rest = [i for i in range(width) if i not in set(unread)]
    for labels in experiment.targets:
        rows, wanted = _rows([(b[key], b[labels]) for b in batches if key in b and labels in b])
        if len(rows) < 2 * LEAST * width or not len(wanted):
            continue
        shares = [_share(rows[:, at], wanted) for at in (rest, list(range(width)), list(unread))]
        yield Told(labels, *shares)


def _rows(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(row, column) and (row, what is wanted); empty where they do not belong to one another.

    The rows of a sample's places are taken at each place where labels are one a place, and by their
    mean where there is one label a sample.
    """
    values, wanted = [], []
    for x, y in pairs:
        y = y.squeeze(-1) if y.ndim > 1 and y.shape[-1] == 1 else y
        if x.ndim == 3 and y.shape == x.shape[:2]:
            x, y = x.flatten(0, 1), y.flatten()
        elif x.ndim == 3:
            x = x.mean(1)
        if y.ndim == 0 or y.shape[0] != len(x) or y.ndim > 2:
            return torch.zeros(0, 1, device="cpu"), torch.zeros(0, 1, device="cpu")
        values.append(x.double().cpu())
        wanted.append(y.cpu())
    if not values:
        return torch.zeros(0, 1, device="cpu"), torch.zeros(0, 1, device="cpu")
    y = torch.cat(wanted)
    if not y.is_floating_point():
        if y.ndim > 1 or y.min() < 0 or len(y.unique()) > CLASSES:
            return torch.zeros(0, 1, device="cpu"), torch.zeros(0, 1, device="cpu")
        y = torch.nn.functional.one_hot(y.long())
    y = y.double()
    return torch.cat(values), y if y.ndim > 1 else y[:, None]


def _share(rows: Tensor, wanted: Tensor) -> float:
    """Of the variance, on every other row, after a fit to the rest; never below zero."""
    return share_told((rows[::2], wanted[::2]), (rows[1::2], wanted[1::2]))


def share_told(fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> float:
    """Of the variance of what is wanted in the held rows, after a linear fit to the others.

    Each is (row, column) and (row, what is wanted); never below zero.
    """
    rows = torch.cat([fit[0], held[0]])
    scaled = (rows - rows.mean(0)) / rows.std(0).clamp_min(1e-12)
    design = torch.cat([scaled, torch.ones(len(rows), 1, dtype=rows.dtype, device="cpu")], 1)
    own, rest = design[: len(fit[0])], design[len(fit[0]) :]
    ridge = 1e-3 * len(own) * torch.eye(own.shape[1], dtype=rows.dtype, device="cpu")
    weights = torch.linalg.solve(own.T @ own + ridge, own.T @ fit[1])
    off = (held[1] - rest @ weights).square().sum()
    spread = (held[1] - fit[1].mean(0)).square().sum().clamp_min(1e-12)
    return max(0.0, 1.0 - float(off / spread))
