"""A step that ran out of memory: what is known of it, for the record."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nan_watch.inquest.hold import Repeatable
from nan_watch.origin.sources import ENGINE, Kind, address, kind_of, module_names
from nan_watch.out_of_memory.tally import Peak, Tally, given
from nan_watch.sampled.sampling import is_sampled
from probes.batch import leaves
from probes.nested import tensors_in
from probes.raised import is_out_of_memory
from probes.record import Recorder
from probes.replay import replay
from probes.subject import Batch

ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
SITES = 8  # that are named

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """A step that got no memory.

    said: the error's first line. asked: what was asked for, as it says. source, site, phase, op:
    where. grew: name, what it was in the last step that fitted, what it is now. allocator: what
    the device's allocator counts. by_site, largest, size: what lived then, in bytes, where the
    step was replayed; not_replayed: why it was not.
    """

    step: int
    said: str
    asked: str | None
    source: str | None
    site: str
    phase: str
    op: str | None
    grew: tuple[tuple[str, str, str], ...]
    allocator: tuple[tuple[str, int], ...]
    by_site: tuple[tuple[str, str | None, int], ...] = ()
    largest: tuple[tuple[str, int], ...] = ()
    size: int | None = None
    not_replayed: str | None = None


class Exhaustions:
    """Knows the steps that fitted, and tells of one that did not."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model = model
        self.optimizer = optimizer
        self._fitted: Shapes = {}
        self._now: Shapes = {}
        self._in_use: tuple[int, int] | None = None  # step, bytes

    def begin(self, step: int, batch: Batch) -> None:
        """A step begins; what began before has fitted."""
        if batch is not None:
            self._fitted, self._now = self._now, _shapes(batch)
        if is_sampled(step) and (used := _in_use()) is not None:
            self._in_use = step, used

    def note(
        self, recorder: Recorder, error: BaseException, step: int, again: Repeatable | None
    ) -> None:
        """Where the error is of memory, the record tells of it; of the first one alone."""
        if is_out_of_memory(error) and "out_of_memory" not in recorder.facts["settings"]:
            recorder.note(out_of_memory=asdict(self.told(error, step, again)))

    def told(self, error: BaseException, step: int, again: Repeatable | None) -> Exhaustion:
        """What is known of the step that ended by the error; it is replayed where it can be.

        The error's frames are cleared: what they hold is what memory is full of.
        """
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        source, site = _place(error, module_names(self.model))
        grew, allocator = tuple(self._grew(step)), _allocator()
        backward = any(frame.f_code.co_filename == ENGINE for frame in frames)
        frames.clear()
        peak, why = None, "the step was not handed to `watch.step`"
        if again is not None:
            traceback.clear_frames(error.__traceback__)
            peak, why = self._replayed(again)
        failed = peak.failed if peak is not None else None
        return Exhaustion(
            step=step,
            said=str(error).strip().splitlines()[0] if str(error).strip() else "MemoryError",
            asked=_asked(str(error)),
            source=failed.source if failed and failed.source else source,
            site=failed.site if failed else site,
            phase=(failed.phase if failed else None) or ("backward" if backward else "forward"),
            op=failed.what if failed else None,
            grew=grew,
            allocator=allocator,
            by_site=tuple((*key, size) for key, size in _most(peak)),
            largest=tuple(_named(peak)),
            size=peak.size if peak is not None else None,
            not_replayed=None if peak is not None else why,
        )

    def _replayed(self, again: Repeatable) -> tuple[Peak | None, str]:
        tensors = [t for leaf in leaves(again.batch).values() for t in tensors_in(leaf)]
        tally = Tally(self.model, given(self.model, self.optimizer, tensors))
        try:
            replay(
                again.run, self.model, again.snapshot, under=[tally], optimizers=[self.optimizer]
            )
        except Exception as error:
            if not is_out_of_memory(error):
                return None, f"the replay raised {type(error).__name__}: {error}"
            traceback.clear_frames(error.__traceback__)
        return tally.peak, ""

    def _grew(self, step: int) -> Iterator[tuple[str, str, str]]:
        for path, shape in self._now.items():
            before = self._fitted.get(path)
            if before is not None and before != shape:
                yield (
                    f"shape of `{path}`" if path else "shape of the batch",
                    str(before),
                    str(shape),
                )
        used = _in_use()
        if self._in_use is not None and used is not None and self._in_use[0] < step:
            since, before_bytes = self._in_use
            yield f"memory in use, since step {since}", in_words(before_bytes), in_words(used)


def _asked(said: str) -> str | None:
    found = ASKED.search(said)
    if found is None:
        return None
    amount, unit = found.groups()
    return in_words(int(amount)) if unit == "bytes" else f"{amount} {unit}"


def _shapes(batch: Batch) -> Shapes:
    return {p: tuple(leaf.shape) for p, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}


def _most(peak: Peak | None) -> list[tuple[tuple[str, str | None], int]]:
    return list(peak.by_site.items())[:SITES] if peak is not None else []


def _named(peak: Peak | None) -> Iterator[tuple[str, int]]:
    for piece in peak.largest if peak is not None else ():
        at = f" at {piece.source}" if piece.source else ""
        of = f" in {piece.site}, {piece.phase}" if piece.phase else ""
        yield f"{piece.what}{of}{at}: {piece.dtype} {list(piece.shape)}", piece.size


def _place(error: BaseException, names: dict[int, str]) -> tuple[str | None, str]:
    """The innermost line of the user's own, and the innermost module, of the error's frames."""
    source, site = None, "<loss>"
    for frame, line in traceback.walk_tb(error.__traceback__):
        if kind_of(frame.f_code.co_filename) is Kind.USER:
            source = address(frame.f_code.co_filename, line)
        site = _module(frame, names) or site
    return source, site


def _module(frame: FrameType, names: dict[int, str]) -> str | None:
    code = frame.f_code
    if not code.co_argcount or code.co_varnames[0] != "self":
        return None
    return names.get(id(frame.f_locals.get("self")))


def _in_use() -> int | None:
    """Bytes in use now: CUDA's, where there is one at work, or the process's; None if unknown."""
    if torch.cuda.is_initialized():
        return torch.cuda.memory_allocated()
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096
    return None


def _allocator() -> tuple[tuple[str, int], ...]:
    if not torch.cuda.is_initialized():
        return ()
    stats = torch.cuda.memory_stats()
    names = {
        "allocated_bytes.all.current": "allocated now",
        "allocated_bytes.all.peak": "allocated at most",
        "reserved_bytes.all.current": "reserved now",
        "inactive_split_bytes.all.current": "in pieces too small to be used",
    }
    return tuple((said, int(stats[key])) for key, said in names.items() if key in stats)


def in_words(size: int) -> str:
    """`1.50 GiB`."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.2f} {unit}"
