"""What is tried at the end of a suite that did not memorise, each trial for one reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from overfit.blind_heads import BlindHead, blind_heads
from overfit.bottleneck import Bottleneck, bottleneck
from overfit.decay import is_direct
from overfit.emptied import Emptied, emptied
from overfit.faster import Faster, faster
from overfit.gentler import Gentler
from overfit.lagging import Lagging, lagging
from overfit.quiet import Quiet, quiet, same_draws
from overfit.reach import Reach, reach
from overfit.settled import Settled, again, settled
from probes.subject import Batch, Subject

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Trials:
    """None where it could not be tried, or is of no concern.

    settled: what a tenth of the rate does. direct: whether decay is taken off the weights
    themselves. bottleneck: the layer whose few numbers keep the squared error up. lagging: the copy
    that is evaluated in place of the trained weights. reach: the least that the loss can be with
    labels that no output can be. again: what a tenth of the rate does from the start, where the
    loss ended above it. faster: what ten times the rate does from the start, where the input fades
    on its way through the weights that it began with. blind: heads that do not follow the input.
    quiet: what the same steps come to with nothing drawn, where calls alike give other losses;
    same_draws: what they come to with the same numbers drawn each time, where no label is known.
    gentler: what smaller steps come to from the start, where training has made the model blind.
    emptied: the call that gives nothing but zeros to what is to learn.
    """

    settled: Settled | None = None
    direct: bool | None = None
    bottleneck: Bottleneck | None = None
    lagging: Lagging | None = None
    reach: Reach | None = None
    again: Settled | None = None
    faster: Faster | None = None
    blind: tuple[BlindHead, ...] = ()
    quiet: Quiet | None = None
    same_draws: Quiet | None = None
    gentler: tuple[Gentler, ...] = ()
    emptied: Emptied | None = None

    @classmethod
    def of(
        cls,
        subject: Subject,
        batches: Sequence[Batch],
        began: Mapping[str, Tensor],
        fades: bool = False,
        keys: Sequence[str] = (),
        noisy: int = 0,
        labelled: bool = True,
    ) -> Trials:
        """All of them are made; the model, which had such weights, is as it was afterwards.

        fades: whether the input faded on its way through these. keys: those of the inputs.
        noisy: the steps that were taken, where calls alike give other losses. labelled: whether
        anything in the batch is known that is scored.
        """
        return cls(
            settled=tried(lambda: settled(subject, batches)),
            direct=tried(lambda: is_direct(subject)),
            bottleneck=tried(lambda: bottleneck(subject, batches)),
            lagging=tried(lambda: lagging(subject, batches, began)),
            reach=tried(lambda: reach(subject, batches)),
            again=tried(lambda: again(subject, batches, began)),
            faster=tried(lambda: faster(subject, batches, began)) if fades else None,
            blind=tried(lambda: blind_heads(subject, batches, began, keys)) or (),
            quiet=tried(lambda: quiet(subject, batches, began, noisy))
            if noisy and labelled
            else None,
            emptied=tried(lambda: emptied(subject, batches)),
            same_draws=tried(lambda: same_draws(subject, batches, began, noisy))
            if noisy and not labelled
            else None,
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trials:
        """The trials whose fields stand in the record."""
        for name in ("quiet", "same_draws"):
            if (still := row.get(name)) is not None and "nonfinite" not in still:
                row = {**row, name: {**still, "sources": tuple(still["sources"])}}
        if (call := row.get("emptied")) is not None:
            row = {**row, "emptied": {**call, "parameters": tuple(call["parameters"])}}
        blind = tuple(BlindHead(**each) for each in row.get("blind", ()))
        known = [each for each in row.get("gentler", ()) if "nonfinite" not in each]
        smaller = tuple(Gentler(**each) for each in known)
        return cls(**{**row, **made_again(row, _MADE), "blind": blind, "gentler": smaller})


_MADE: Mapping[str, Callable[..., Any]] = {
    "settled": Settled,
    "bottleneck": Bottleneck,
    "lagging": Lagging,
    "reach": Reach,
    "again": Settled,
    "faster": Faster,
    "quiet": Quiet,
    "same_draws": Quiet,
    "emptied": Emptied,
}


def made_again(row: Mapping[str, Any], kinds: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """What the record holds under these names; None of what has a number that was not finite."""
    kept = {name: row[name] for name in kinds if row.get(name) is not None}
    return {
        name: None if "nonfinite" in fields else kinds[name](**fields)
        for name, fields in kept.items()
    }


def tried(trial: Callable[[], Found]) -> Found | None:
    """What came of it; None where the user's code does not take to it."""
    with suppress(Exception):
        return trial()
    return None
