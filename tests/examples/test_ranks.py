"""Four real processes in DistributedDataParallel, of which one has a NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nan_watch import NanWatch

pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        hidden = self.inner(x).tanh().square()
        logits: Tensor = self.head(hidden * length[:, None] / length[:, None])  # planted
        return logits


def trained(rank: int) -> dict[str, Any]:
    """A loop whose third step is sick on ranks 2 and 3, and is skipped."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Net())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    chance = torch.Generator().manual_seed(rank)
    with NanWatch(model, optimizer, out="run", timeout=60, on_poison="skip") as watch:
        for step in range(4):
            x, length = torch.randn(8, 6, generator=chance), torch.full((8,), 5.0)
            if step == 2 and rank >= 2:
                length[rank + 3] = 0.0
            F.cross_entropy(model(x, length), (x[:, 0] > 0).long()).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {
        "found": [(f.code, f.source, f.samples, f.step) for f in watch.findings],
        "message": watch.findings[0].message,
        "parameters": [each.detach().flatten().tolist() for each in model.parameters()],
    }


def test_a_nan_on_some_of_four_ranks_is_skipped_by_all_and_the_first_is_named(
    ranks: Ranks, tmp_path: Path
) -> None:
    lines = Path(__file__).read_text().splitlines()
    [planted] = [i for i, text in enumerate(lines, 1) if text.endswith("# planted")]
    told = ranks(4, trained)
    for each in told:
        assert each["found"] == [["NAN004", f"{__file__}:{planted}", [5], 2]]
        assert each["message"].endswith("of step 2, on rank 2.")
        assert each["parameters"] == told[0]["parameters"]
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "rank1" / "report.html").exists()
