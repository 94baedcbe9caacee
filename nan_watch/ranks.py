"""The processes that train together: what one of them finds, all of them act on."""

from __future__ import annotations

import os
import warnings
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
from nan_watch.flags import NOTHING, Doubles
from nan_watch.grad_norms import Norms
from probes.errors import RequestError
from probes.finding import Evidence, Finding
from probes.record import Recorder, new_folder
from probes.wrapped import is_sharded, several, stages

TIMEOUT = 600.0  # seconds that a rank waits for the others
LATE = ("timed out", "timeout")  # in torch's words
LOST = (*LATE, "closed by peer", "reset by peer", "remote process", "broken pipe")
POISONED, BEGINS, AWAY = range(3)  # rows of what the ranks tell each other
Value = TypeVar("Value")


class Ranks:
    """This process among those that train together; alone, nothing is sent.

    number, count: its rank, and how many there are. All of them take the same steps.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.count, self.number = 1, 0
        self._timeout = timeout
        self._group: Any = None
        self._home: Path | None = None
        self.stages: list[Any] = []  # of a pipeline, that this rank holds
        self.staged = False  # whether any rank holds some
        self.tells_stages = False  # whether it is known at which of its stages something began
        self.some_away = False  # whether at the newest step some had no batch left
        self.drift: Drift | None = None

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def begin(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        """The ranks know each other, and what each of them holds of the model.

        Raises RequestError where their parameters differ in name, shape or dtype, or where
        `torchrun` started several of them that have no process group. Warns where the environment
        alone says that there are several.
        """
        if several():
            dist = torch.distributed
            self.count, self.number = dist.get_world_size(), dist.get_rank()
        else:
            _demand_alone()
        if not self.several:
            return
        held = {name: (tuple(each.shape), str(each.dtype)) for name, each in named.items()}
        with self._in_time("to begin", ", or it has no watch: let every rank begin one"):
            self._group = torch.distributed.new_group(
                backend="gloo", timeout=timedelta(seconds=self._timeout)
            )
            own, self.stages = sha256(repr(held).encode()).hexdigest(), stages(model)
            told = self._gather((own, len(self.stages)))
            self.staged = any(count for _, count in told)
            odd = [rank for rank, (print_, _) in enumerate(told) if print_ != told[0][0]]
            whole = self._gather(held) if odd and not self.staged else []
        if whole:
            raise RequestError(
                f"the model of rank {odd[0]} has other parameters than that of rank 0: "
                f"{_difference(whole[0], whole[odd[0]], odd[0])}. Every rank must hold the same "
                "names, shapes and dtypes; build the model alike on all of them, or, where they "
                "are stages of a pipeline, make its `PipelineStage` before the watch begins."
            )
        if not self.staged:
            self.drift = Drift(model, named, self._gathered)

    def folder(self, out: Path | None) -> Path:
        """The run folder: rank 0's own, and `rank1` in it for rank 1."""
        home = self._home = self.shared(0, lambda: new_folder(out))
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
        if not self.several:
            self._demand_still_alone(step)
            return 0 if poisoned else None
        flags = np.zeros((3, self.count))  # (what, rank)
        flags[:, self.number] = poisoned, poisoned and begins, False
        own = NOTHING if self.drift is None else self.drift.replicas.own(sums, norms)
        flags, high, low = self._told(flags, own, -own)
        self.some_away = bool(flags[AWAY].any())
        if self.drift is not None and self.some_away:
            self.drift.joined = True
        elif self.drift is not None:
            self.drift.look(step, -low, high)
        return _first(flags)

    def answer(self) -> tuple[bool, int | None]:
        """What the others agree on at a step, which this rank, having no batch, does not take.

        Returns whether all ranks are away, and the rank at which the step is to be refused.
        """
        flags = np.zeros((3, self.count))
        flags[AWAY, self.number] = True
        none = np.full(0 if self.drift is None else self.drift.replicas.told, -np.inf)
        flags, _, _ = self._told(flags, none, none)
        if self.drift is not None and not flags[AWAY].all():
            self.drift.joined = True
        return bool(flags[AWAY].all()), _first(flags)

    def meet(self) -> None:
        """All ranks have come here."""
        with self._in_time("for those that have no batch left"):
            torch.distributed.all_reduce(torch.zeros(1, device="cpu"), group=self._group)

    def _told(self, *parts: Doubles) -> list[Doubles]:
        """The largest of each number that any rank tells, in the shapes of the parts."""
        told = torch.from_numpy(np.concatenate([each.ravel() for each in parts]))
        with self._in_time("at a step"):
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, self._group)
        ends = np.cumsum([each.size for each in parts])[:-1]
        shares = np.split(told.numpy(), ends)
        return [share.reshape(part.shape) for share, part in zip(shares, parts, strict=True)]

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
        """What this rank's `make` gives, on all of them; it is called there alone.

        The RequestError that it raises there is raised on all of them.
        """
        if not self.several:
            return make()
        held: list[Any] = [_made(make) if self.number == rank else None]
        with self._in_time("for what another one found"):
            torch.distributed.broadcast_object_list(held, rank, group=self._group)
        if isinstance(held[0], RequestError):
            raise held[0]
        return held[0]  # type: ignore[no-any-return]

    def named(self, finding: Finding) -> Finding:
        """The finding with this rank's number, where there are several."""
        if not self.several:
            return finding
        message = f"{finding.message.removesuffix('.')}, on rank {self.number}"
        if len(self.stages) > 1 and not self.tells_stages:
            message += ", whose stages may have got it from those of other ranks"
        said = Evidence("the first rank at which it is", self.number)
        return replace(finding, message=f"{message}.", evidence=(*finding.evidence, said))

    def _gathered(self, value: Value) -> list[Value]:
        with self._in_time("to compare parameters"):
            return self._gather(value)

    def _gather(self, value: Value) -> list[Value]:
        held: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(held, value, group=self._group)
        return held

    def _demand_still_alone(self, step: int) -> None:
        if several():
            raise RequestError(
                f"torch.distributed was initialised inside the watch's block, before step {step}, "
                "so that the ranks cannot decide together: call "
                "`torch.distributed.init_process_group()` before the watch begins."
            )

    @contextmanager
    def _in_time(self, why: str, or_else: str = "") -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # a peer is gone, or the time is up
            late = _says(error, LATE)
            raise RequestError(
                f"rank {self.number} waited {why}, and "
                + (
                    f"no answer came from {self._others} within {self._timeout:g} s: a rank hangs, "
                    f"has ended, or takes fewer steps{or_else}"
                    if late
                    else f"the connection to {self._others} broke off: a rank has ended"
                )
                + f"{self._where}."
            ) from error

    def tell_lost(self, error: BaseException) -> None:
        """The error that torch raises where another rank is gone says so, and where to look."""
        if self.several and isinstance(error, RuntimeError) and _says(error, LOST):
            error.add_note(
                f"whynan: rank {self.number} lost {self._others}: a rank has ended, hangs, or "
                f"takes fewer steps{self._where}."
            )

    @property
    def _others(self) -> str:
        return "the other rank" if self.count == 2 else f"the other {self.count - 1} ranks"

    @property
    def _where(self) -> str:
        return f"; `{self._home}` says how far each of them came" if self._home else ""


def _first(flags: Doubles) -> int | None:
    """The first rank that begins it, or else that is poisoned; None where none is."""
    for row in (flags[BEGINS], flags[POISONED]):
        if row.any():
            return int(row.argmax())
    return None


def _says(error: BaseException, words: Sequence[str]) -> bool:
    return any(each in str(error).lower() for each in words)


def _demand_alone() -> None:
    """Raises RequestError, or warns, where this process seems to be one of several."""
    told = os.environ.get("WORLD_SIZE", "")
    started = int(told) if told.isdecimal() else 1
    if started < 2:
        return
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        raise RequestError(
            f"`torchrun` started {started} processes, but torch.distributed is not "
            "initialised, so that the ranks cannot decide together: call "
            "`torch.distributed.init_process_group()` before the watch begins."
        )
    if "RANK" in os.environ:
        warnings.warn(
            f"`WORLD_SIZE` is {started} and `RANK` is {os.environ['RANK']}, but torch.distributed "
            "is not initialised: this process is watched by itself. Where it trains together with "
            "others, call `torch.distributed.init_process_group()` before the watch begins.",
            stacklevel=4,
        )


def _difference(one: Mapping[str, Any], two: Mapping[str, Any], rank: int) -> str:
    """The first parameter that rank 0 and this one hold otherwise, with what each of them holds."""
    name = next(each for each in [*one, *two] if one.get(each) != two.get(each))
    sides = [_told(held.get(name)) for held in (one, two)]
    return f"`{name}` is {sides[0]} on rank 0, and {sides[1]} on rank {rank}"


def _told(held: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if held is None else f"{list(held[0])} in {held[1].removeprefix('torch.')}"


def _made(make: Callable[[], Value]) -> Value | RequestError:
    try:
        return make()
    except RequestError as error:
        return error


def _copies(parameter: Tensor) -> int | None:
    """How many ranks hold each part of a sharded parameter; None where it is whole on all."""
    if not is_sharded(parameter):
        return None
    mesh, kinds = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    copies = 1
    for axis, kind in enumerate(kinds):
        copies *= mesh.size(axis) if kind.is_replicate() else 1
    return copies
