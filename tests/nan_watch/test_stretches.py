"""A step that is refused in the middle: part of the model is switched off, or the rest raises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding


class Pair(nn.Module):
    """Two halves that are trained in turns, each while the other one is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.painter, self.critic = nn.Linear(2, 3), nn.Linear(3, 1)

    def only(self, half: nn.Module) -> None:
        for each in (self.painter, self.critic):
            each.requires_grad_(each is half)

    def both(self) -> None:
        self.requires_grad_(True)


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# {mark}")]
    return f"{__file__}:{number}"


def refused(pair: Pair, real: Tensor, late: list[int] | None = None) -> Finding | None:
    """late: what is taken from in the second half; where it is empty, that raises."""
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in pair.children()]

    def step() -> Tensor:
        drawn = pair.painter(torch.ones(len(real), 2))
        pair.only(pair.critic)
        score = pair.critic(real / real.norm(dim=1, keepdim=True))  # RATIO
        loss = F.softplus(-score).mean() + F.softplus(pair.critic(drawn.detach())).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        pair.only(pair.painter)
        if late is not None:
            late.pop()
        deceived = F.softplus(-pair.critic(drawn)).mean()
        optimizers[0].zero_grad()
        deceived.backward()
        optimizers[0].step()
        pair.both()
        return deceived

    with NanWatch(pair, optimizers) as watch:
        try:
            with watch.stepping(step, at_once=True):
                step()
        except PoisonedStep as refusal:
            return refusal.finding
    assert not watch.findings
    return None


def test_a_replay_begins_with_what_required_a_gradient_when_the_step_began() -> None:
    torch.manual_seed(0)
    pair, real = Pair(), torch.ones(4, 3)
    assert refused(pair, real) is None
    real[2] = 0
    finding = refused(pair, real)
    assert finding is not None
    assert (finding.op, finding.source, finding.confirmed) == ("aten.div", line("RATIO"), True)
    assert not any(each.requires_grad for each in pair.painter.parameters())  # as it was refused
    assert all(each.requires_grad for each in pair.critic.parameters())


@pytest.mark.parametrize("real", [torch.ones(4, 3), torch.eye(4, 3)], ids=["healthy", "sick"])
def test_what_a_replay_met_before_it_raised_is_told(real: Tensor) -> None:
    torch.manual_seed(0)
    finding = refused(Pair(), real, late=[1] if real.all() else [])
    if real.all():
        assert finding is None
        return
    assert finding is not None
    assert (finding.op, finding.source, finding.confirmed) == ("aten.div", line("RATIO"), None)
    said = {each.what: each.value for each in finding.evidence}
    assert said["replay raised"] == "IndexError: pop from empty list"
