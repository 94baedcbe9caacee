"""A loss over pairs, in which a few samples meet others' labels and not their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen


def cox(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Each event against all that were still at risk."""
    risk, time = model(batch["x"]).squeeze(-1), batch["time"]
    at_risk = torch.where(time >= time[:, None], 0.0, float("-inf"))
    total: Tensor = ((at_risk + risk).logsumexp(1) - risk) * batch["event"]
    return total.mean()


def test_a_cox_loss_is_of_pairs_and_no_mistake() -> None:
    chance = torch.Generator().manual_seed(0)
    for seed in range(4):
        torch.manual_seed(seed)
        batch = {
            "x": torch.randn(12, 8, generator=chance),
            "time": torch.rand(12, generator=chance),
            "event": (torch.rand(12, generator=chance) < 0.7).float(),
        }
        subject = Subject(nn.Linear(8, 1), [batch], cox, lambda m: torch.optim.Adam(m.parameters()))
        assert not check(subject, chosen(only=["IDX002"])).findings
