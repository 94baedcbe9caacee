"""The record of a run, and the page of one that has something to say."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nan_watch.causes import RULES as CAUSES
from nan_watch.guard import PoisonedStep
from nan_watch.ranks import Ranks
from nan_watch.rules import RULES as HEALTH
from probes.finding import limits
from probes.record import Recorder

if TYPE_CHECKING:
    from nan_watch.watch import NanWatch


def opened_record(watch: NanWatch, out: Path | str | Recorder | None, ranks: Ranks) -> Recorder:
    """The record that is open already, or a new one; each rank has its own."""
    if isinstance(out, Recorder):
        ranks.tell_drift(out)
        return out
    settings: dict[str, Any] = {"tier": watch.tier, "on_poison": watch.on_poison}
    if ranks.several:
        settings |= {"rank": ranks.number, "ranks": ranks.count}
    made = Recorder(
        ranks.folder(Path(out) if out is not None else None),
        device=next((str(p.device) for p in watch.model.parameters()), None),
        settings=settings,
        limits=limits((*CAUSES, *HEALTH)),
    )
    ranks.tell_drift(made)
    return made


def ended(recorder: Recorder, error: BaseException | None, ranks: Ranks) -> bool:
    """Whether the loop came to its end, or to a refusal; what else ended it is noted."""
    if error is None or isinstance(error, PoisonedStep):
        return True
    recorder.note(ended_by=type(error).__name__)
    ranks.tell_lost(error)
    return False


def render_or_warn(folder: Path) -> None:
    """The folder holds its report, or a warning says why not."""
    from reports import render

    try:
        render(folder)
    except Exception as error:  # the record is whole, and the loop's own error must not be hidden
        with suppress(UserWarning):  # where warnings are errors, as well
            said = f"`{folder}` has no report: {type(error).__name__}: {error}"
            warnings.warn(said, stacklevel=3)
