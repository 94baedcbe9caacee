"""The processes that train together: what one of them finds, all of them act on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nan_watch.drift import Drift
from nan_watch.flags import Doubles
from nan_watch.grad_norms import Norms
from probes.errors import RequestError
from probes.finding import Evidence, Finding
from probes.record import Recorder, new_folder
from probes.wrapped import is_sharded

TIMEOUT = 600.0  # seconds that a rank waits for the others
Value = TypeVar("Value")


class Ranks:
    """This process among those that train together; alone, nothing is sent.

    number, count: its rank, and how many there are. All of them take the same steps.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        dist = torch.distributed
        together = dist.is_available() and dist.is_initialized()
        self.count = dist.get_world_size() if together else 1
        self.number = dist.get_rank() if together else 0
        self._timeout = timeout
        self._group: Any = None
        self.drift: Drift | None = None

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def begin(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        """The ranks know each other, and what each of them holds of the model.

        Raises RequestError where their parameters differ in shape, or where `torchrun` started
        several of them that have no process group.
        """
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if not self.several and started > 1 and torch.distributed.is_torchelastic_launched():
            raise RequestError(
                f"`torchrun` started {started} processes, but torch.distributed is not "
                "initialised, so that the ranks cannot decide together: call "
                "`torch.distributed.init_process_group()` before the watch begins."
            )
        if not self.several:
            return
        with self._in_time("to begin"):
            self._group = torch.distributed.new_group(
                backend="gloo", timeout=timedelta(seconds=self._timeout)
            )
            shapes = {name: tuple(parameter.shape) for name, parameter in named.items()}
            own = sha256(repr(shapes).encode()).hexdigest()
            all_of_them = self._gather(own)
        odd = [rank for rank, print_ in enumerate(all_of_them) if print_ != all_of_them[0]]
        if odd:
            raise RequestError(
                f"the model of rank {odd[0]} has other parameters than that of rank 0: every rank "
                "must hold the same names and shapes; build the model alike on all of them."
            )
        self.drift = Drift(model, named, self._gathered)

    def folder(self, out: Path | None) -> Path:
        """The run folder: rank 0's own, and `rank1` in it for rank 1."""
        home = self.shared(0, lambda: new_folder(out))
        return home if self.number == 0 else new_folder(home / f"rank{self.number}")

    def tell_drift(self, recorder: Recorder) -> None:
        """Whether parameters drift apart stands among the settings of the record."""
        if self.drift is not None:
            self.drift.begin(recorder)

    def waiting(self) -> list[Tensor]:
        """What is to be read of the parameters, to be held against those of the others."""
        return [] if self.drift is None else self.drift.replicas.waiting()

    def agree(
        self, step: int, poisoned: bool, begins: bool, sums: Doubles, norms: Doubles
    ) -> int | None:
        """The rank at which a step is to be refused by all of them; None where by none.

        poisoned: whether this one is. begins: whether the loss or an output is not finite here,
        and not a gradient alone, which may have come from another rank. sums: what was read of
        `waiting`. norms: of the gradients, whose agreement is noted with that of the parameters.
        """
        if self.drift is None:
            return 0 if poisoned else None
        flags = np.zeros((2, self.count))  # (what, rank)
        flags[:, self.number] = poisoned, poisoned and begins
        own = self.drift.replicas.own(sums, norms)
        told = torch.from_numpy(np.concatenate([flags.ravel(), own, -own]))
        with self._in_time("at a step"):
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, self._group)
        flags, high, low = np.split(told.numpy(), [flags.size, flags.size + len(own)])
        self.drift.look(step, -low, high)
        for row in flags.reshape(2, self.count)[::-1]:
            if row.any():
                return int(row.argmax())
        return None

    def whole(self, norms: Norms, parameters: Sequence[Tensor]) -> Norms:
        """The norms of whole gradients, where each rank measured its own part of some."""
        copies = [_copies(parameter) for parameter in parameters]
        parts = np.array([each is not None for each in copies])
        if not self.several or not parts.any():
            return norms
        share = np.array([each or 1 for each in copies], np.float64)
        rows = [norms.seen] if norms.before is None else [norms.seen, norms.before]
        unseen = [row < 0 for row in rows]
        squares = torch.from_numpy(np.stack([np.where(row < 0, 0, row**2 / share) for row in rows]))
        with self._in_time("for gradient norms"):
            torch.distributed.all_reduce(squares, group=self._group)  # (row, place)
        added = np.sqrt(squares.numpy())
        found = [
            np.where(parts & ~none, total, row)
            for total, none, row in zip(added, unseen, rows, strict=True)
        ]
        return replace(norms, seen=found[0], before=found[1] if len(found) > 1 else None)

    def shared(self, rank: int, make: Callable[[], Value]) -> Value:
        """What this rank's `make` gives, on all of them; it is called there alone."""
        if not self.several:
            return make()
        held: list[Any] = [make() if self.number == rank else None]
        with self._in_time("for what another one found"):
            torch.distributed.broadcast_object_list(held, rank, group=self._group)
        return held[0]  # type: ignore[no-any-return]

    def named(self, finding: Finding) -> Finding:
        """The finding with this rank's number, where there are several."""
        if not self.several:
            return finding
        message = f"{finding.message.removesuffix('.')}, on rank {self.number}."
        said = Evidence("the first rank at which it is", self.number)
        return replace(finding, message=message, evidence=(*finding.evidence, said))

    def _gathered(self, value: Value) -> list[Value]:
        with self._in_time("to compare parameters"):
            return self._gather(value)

    def _gather(self, value: Value) -> list[Value]:
        held: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(held, value, group=self._group)
        return held

    @contextmanager
    def _in_time(self, why: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # a peer is gone, or the time is up
            raise RequestError(
                f"rank {self.number} waited {why} and got no answer from the other "
                f"{self.count - 1} within {self._timeout:g} s: one of them has ended, or takes "
                "fewer steps; its own run folder says how far it came."
            ) from error


def _copies(parameter: Tensor) -> int | None:
    """How many ranks hold each part of a sharded parameter; None where it is whole on all."""
    if not is_sharded(parameter):
        return None
    mesh, kinds = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    copies = 1
    for axis, kind in enumerate(kinds):
        copies *= mesh.size(axis) if kind.is_replicate() else 1
    return copies
