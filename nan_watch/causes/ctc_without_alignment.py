"""NAN025: CTC finds no alignment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.origin.closeup import Call
from probes.finding import Evidence, Finding


@dataclass(frozen=True, slots=True)
class CtcWithoutAlignment:
    """A target is longer than the input that has to be aligned with it.

    CTC needs a frame for each label and one more between two that are alike; with fewer, no
    alignment has a probability, and the loss is infinite.

    Sick:    `nn.CTCLoss()` where the encoder's stride leaves 5 frames for 8 labels
    Healthy: `nn.CTCLoss(zero_infinity=True)`, or such samples left out
    """

    code: ClassVar[str] = "NAN025"
    rule: ClassVar[str] = "ctc-without-alignment"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The loss, and how many samples have no alignment."""
        call = case.call
        if call is None or not (case.op or "").endswith("_ctc_loss"):
            return
        frames, needed = _frames(call), _needed(call)
        short = [i for i, needs in enumerate(needed) if frames[i] < needs]
        first = " for some sample"
        if short:
            i = short[0]
            first = f": sample {i} needs {needed[i]} frames and has {frames[i]}"
        yield told(
            self,
            case,
            f"finds no alignment{first}",
            "Give `zero_infinity=True`, leave such samples out, or keep more frames (a smaller "
            "stride); look whether input and target lengths are swapped.",
            Evidence("samples that need more frames than they have", len(short), 0),
        )


def _frames(call: Call) -> list[int]:
    """(sample,) how many there are."""
    return [int(each) for each in call.arg(2)]


def _needed(call: Call) -> list[int]:
    """(sample,) the frames needed: one a label, and one between two that are alike."""
    targets, lengths = call.arg(1), [int(each) for each in call.arg(3)]
    rows = targets.split(lengths) if targets.ndim == 1 else targets
    cut = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return [len(row) + int((row[1:] == row[:-1]).sum()) for row in cut]
