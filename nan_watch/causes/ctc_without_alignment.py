"""NAN025: CTC finds no alignment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nan_watch.case import Case
from nan_watch.closeup import Call
from nan_watch.naming import told
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
        frames, labels = _lengths(call)
        short = (labels > frames).nonzero().flatten().tolist()
        place = f": sample {short[0]} has {labels[short[0]]} labels for {frames[short[0]]} frames"
        yield told(
            self,
            case,
            f"finds no alignment{place if short else ' for some sample'}",
            "Give `zero_infinity=True`, leave such samples out, or keep more frames (a smaller "
            "stride); look whether input and target lengths are swapped.",
            Evidence("samples with more labels than frames", len(short), 0),
        )


def _lengths(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """(sample,) frames and labels."""
    frames, labels = (torch.as_tensor(call.arg(place)) for place in (2, 3))
    return frames.cpu(), labels.cpu()
