"""What held a suite's steps back: a schedule, clipping, an eps, or adding up of gradients."""

from __future__ import annotations

from dataclasses import dataclass

from overfit.curves import Curves
from overfit.drive import Drive
from probes.finding import Evidence


@dataclass(frozen=True, slots=True)
class Brake:
    """What kept the steps small. words: a clause. fix: one sentence."""

    words: str
    fix: str
    evidence: tuple[Evidence, ...]


def brake(curves: Curves, harsh: float = 0.1) -> Brake | None:
    """What left `harsh` of the steps or less, in half of them or more; None where nothing did.

    Clipping is no brake of an optimizer that divides by the size of the gradients, such as Adam.
    """
    drive = curves.drive
    if drive is None:
        return None
    if drive.usual is not None and drive.rate and drive.usual <= harsh * drive.rate:
        return Brake(
            f"the schedule leaves {drive.usual / drive.rate:.2g} of the learning rate of "
            f"{drive.rate:.3g} in the median step",
            "Give the schedule its lengths in the optimizer steps that there are: a warm-up must "
            "end within them.",
            (
                Evidence("median learning rate", drive.usual, harsh * drive.rate),
                Evidence("learning rate that the optimizer was given", drive.rate),
            ),
        )
    if curves.clipped is not None and drive.proportional and curves.clipped <= harsh:
        return Brake(
            f"clipping leaves {curves.clipped:.2g} of the gradient in the median step",
            "Raise the limit of the clipping above the usual norm of the gradient.",
            (Evidence("median share of the gradient that clipping leaves", curves.clipped, harsh),),
        )
    return _eps(drive, harsh) or added_up(curves)


def added_up(curves: Curves, times: int = 4, few: int = 50) -> Brake | None:
    """Gradients of so many calls or more that go into one step, which leaves few steps."""
    drive = curves.drive
    if drive is None or not 0 < drive.taken < few or drive.calls < times * drive.taken:
        return None
    each = drive.calls / drive.taken
    return Brake(
        f"the optimizer is stepped once in {each:.3g} calls of the training step, {drive.taken} "
        f"times in {drive.calls}",
        "Add up the gradients of fewer batches before a step.",
        (
            Evidence("calls of the training step", drive.calls),
            Evidence("steps of the optimizer", drive.taken),
        ),
    )


def _eps(drive: Drive, harsh: float) -> Brake | None:
    if drive.swamped is None or drive.eps is None or drive.swamped > harsh:
        return None
    size = drive.eps * drive.swamped / (1 - drive.swamped)
    return Brake(
        f"an eps of {drive.eps:.3g} is added to what the optimizer divides by, which is {size:.2g} "
        f"in the median place, and leaves {drive.swamped:.2g} of the step",
        "Leave `eps` at its default (1e-8 in Adam): it only keeps from a division by zero.",
        (Evidence("median share of the step that the eps leaves", drive.swamped, harsh),),
    )
