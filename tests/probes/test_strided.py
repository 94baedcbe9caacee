"""Lengths and masks after strides: counted in places before them, they hide too little."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
FRAMES, SHORTEST = 40, 4


class Heard(nn.Module):
    """The mean, or the largest, of what two strided convolutions give where `counted` says so."""

    def __init__(self, counted: str, pooled: str, kernel: int) -> None:
        super().__init__()
        self.one = nn.Conv1d(5, 8, kernel, stride=2, padding=kernel // 2 if kernel % 2 else 0)
        self.two = nn.Conv1d(8, 8, kernel, stride=2, padding=kernel // 2 if kernel % 2 else 0)
        self.head, self.counted, self.pooled = nn.Linear(8, 3), counted, pooled

    def forward(self, sound: Tensor, keep: Tensor) -> Tensor:
        x = self.two(F.relu(self.one(sound.transpose(1, 2)))).transpose(1, 2)
        count = keep.sum(1) if self.counted == "frames" else (keep.sum(1) + 3) // 4
        seen = (torch.arange(x.shape[1]) < count[:, None])[..., None]
        if self.counted == "cut":
            seen = keep[:, : x.shape[1], None]
        elif self.counted == "every fourth":
            seen = keep[:, ::4, None]
        mean = (x * seen).sum(1) / seen.sum(1)
        out: Tensor = self.head(
            mean if self.pooled == "mean" else x.masked_fill(~seen, -1e4).amax(1)
        )
        return out


def predict(model: nn.Module, b: Batch) -> Tensor:
    keep = b["keep"] if "keep" in b else torch.arange(b["sound"].shape[1]) < b["lengths"][:, None]
    out: Tensor = model(b["sound"], keep)
    return out


def told(model: nn.Module, masked: bool) -> list[Verdict]:
    seed_everything(0)
    lengths = 4 * torch.randint(SHORTEST, FRAMES // 4 + 1, (16,))
    lengths[:2] = torch.tensor([FRAMES, 4])
    keep = torch.arange(FRAMES) < lengths[:, None]
    sound = torch.randn(16, FRAMES, 5) * keep[..., None]
    batch = {"sound": sound, "word": torch.randint(3, (16,))}
    batch |= {"keep": keep} if masked else {"lengths": lengths}
    subject = Subject(
        model,
        [batch],
        lambda m, b: F.cross_entropy(predict(m, b), b["word"]),
        lambda m: torch.optim.Adam(m.parameters()),
        predict=predict,
    )
    found = check(subject, chosen(only=["MSK001", "MSK004", "MSK007"])).findings
    return [each.verdict for each in found if each.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("counted", ["frames", "cut"])
def test_what_is_counted_before_the_strides_hides_too_little(counted: str, masked: bool) -> None:
    assert told(Heard(counted, "mean", 2), masked) == [Verdict.WARN]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("counted", ["places", "every fourth"])
@pytest.mark.parametrize("pooled", ["mean", "largest"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_what_is_counted_after_them_hides_all(
    counted: str, pooled: str, kernel: int, masked: bool
) -> None:
    assert told(Heard(counted, pooled, kernel), masked) == []
