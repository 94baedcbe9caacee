"""How many units of an activation let no gradient through: looked at in a few steps only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nan_watch.flags import Doubles
from nan_watch.sampled.activations import Activation, activation
from nan_watch.sampled.sampling import is_sampled
from probes.bus import Kind, See, Site
from probes.modules import watched_modules

A_STEP = 8  # of a step's positions that count, so that it takes several steps
ENOUGH = 32  # positions on end that a unit was closed at, at which it counts as closed

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)

Key = tuple[int, int]
"""Number of a site, and how many units its output has: a module may be shared."""

Shares = Mapping[str, Mapping[str, float]]
"""Statistic to site to its value."""


@dataclass(slots=True)
class _Now:
    """What a step's calls of a site have shown: (unit,) closed in all of them; positions seen."""

    closed: Tensor
    positions: int


class Units:
    """Counts, for every unit, the positions on end in which it was closed, on the device.

    A position is a sample, or a token or pixel of one. A unit that was open at one position of a
    step begins anew. Activations that are called as functions are not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sees: Mapping[Kind, See] = {Kind.OUTPUT: self.see}
        self.sites: Sequence[Site] = ()
        found = {name: activation(module) for name, module in watched_modules(model)}
        self.watched = {name: what for name, what in found.items() if what is not None}
        self._sampled = True
        self._channels = {m.out_channels for m in model.modules() if isinstance(m, CONVOLUTIONS)}
        self._features = {m.out_features for m in model.modules() if isinstance(m, nn.Linear)}
        self._now: dict[Key, _Now] = {}
        self._counts: dict[Key, Tensor] = {}
        self._read: list[Key] = []

    def see(self, number: int, tensor: Tensor) -> None:
        """In a step that is sampled, an activation's closed units are known on the device."""
        if self._sampled:
            what = self.watched.get(self.sites[number].name)
            if what is not None and tensor.ndim > 1 and tensor.numel():
                self._look(number, what, tensor.detach())

    @torch.no_grad()
    def _look(self, number: int, what: Activation, out: Tensor) -> None:
        unit = self._unit_axis(out)
        closed = what.closed(out, [axis for axis in range(out.ndim) if axis != unit])
        key, positions = (number, len(closed)), out.numel() // len(closed)
        now = self._now.get(key)
        if now is None:
            self._now[key] = _Now(closed, positions)
        else:
            now.closed &= closed
            now.positions += positions

    def _unit_axis(self, out: Tensor) -> int:
        """The channels of a convolution where the shape says so; else the last axis."""
        channels = out.ndim > 2 and out.shape[1] in self._channels
        sequence = out.ndim == 3 and out.shape[2] in self._features
        return 1 if channels and not sequence else out.ndim - 1

    @torch.no_grad()
    def waiting(self) -> list[Tensor]:
        """What is to be read: for every site seen, the share of its units that are closed."""
        self._read = list(self._now)
        shares = []
        for key, now in self._now.items():
            before = self._counts.get(key)
            more = min(now.positions, A_STEP)
            count = now.closed * (more if before is None else before + more)  # (unit,)
            self._counts[key] = count
            shares.append((count >= ENOUGH).float().mean())
        self._now = {}
        return shares

    @property
    def pending(self) -> int:
        """How many numbers `waiting` gave."""
        return len(self._read)

    def forget(self) -> None:
        """What was seen of the step at work does not count."""
        self._now = {}

    def take(self, numbers: Doubles, next_step: int) -> Shares:
        """Shares by statistic and site, and `count`, the units; from what was read of `waiting`.

        Where a module is shared, the largest share is kept.
        """
        shares: dict[str, dict[str, float]] = {}
        for (number, units), share in zip(self._read, numbers.tolist(), strict=True):
            name = self.sites[number].name
            by_site = shares.setdefault(self.watched[name].stat, {})
            if share >= by_site.get(name, -1.0):
                by_site[name] = share
                shares.setdefault("count", {})[name] = float(units)
        self._read, self._sampled = [], is_sampled(next_step)
        return shares
