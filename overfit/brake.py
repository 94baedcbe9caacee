"""What held a suite's steps back, where more was given: a schedule, clipping, or an eps."""

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
    return _eps(drive, harsh)


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
