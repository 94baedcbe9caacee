"""Three real processes that are the stages of a pipeline, of which one has a NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep

pytestmark = pytest.mark.slow
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]
STAGES = 3


class Stage(nn.Module):
    """sick: whether its output, or else the gradient in it, is not finite; None where it is fine.

    Nothing tells the stages apart by names and shapes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)
        self.sick: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x).tanh()
        if self.sick == "forward":
            hidden = hidden / (hidden[:, :1] * 0)  # planted forward
        if self.sick == "backward":
            hidden = hidden + (hidden * 0).sum(-1, keepdim=True).sqrt()  # planted backward
        out: Tensor = self.outer(hidden)
        return out


def line(where: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [at] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# planted {where}")]
    return f"{__file__}:{at}"


def trained(
    rank: int, state: str, sick: int | None = None, where: str | None = None
) -> dict[str, Any]:
    """Four steps, of which the third is sick at one of the stages, in its forward or backward."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    torch.manual_seed(rank)
    model = Stage()
    stage = PipelineStage(model, rank, STAGES, torch.device("cpu"))
    schedule = Schedule1F1B(stage, 4, loss_fn=F.cross_entropy)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    chance = torch.Generator().manual_seed(0)

    def loop() -> None:
        for step in range(4):
            model.sick = where if (step, rank) == (2, sick) else None
            x = torch.randn(8, 6, generator=chance)
            optimizer.zero_grad()
            if rank == 0:
                schedule.step(x)
            else:
                schedule.step(target=x.argmax(-1)) if rank == STAGES - 1 else schedule.step()
            optimizer.step()

    told: dict[str, Any] = {}
    if state == "bare":
        loop()
    else:
        watch = NanWatch(model, optimizer, out=f"{state}{sick}{where}", timeout=30)
        try:
            with watch:
                loop()
        except PoisonedStep as refusal:
            told["raised"] = refusal.finding.message
        told["findings"] = [(f.code, f.source, f.step) for f in watch.findings]
        told["why"] = [e.why for e in watch.judgement.not_judged if e.code == "GRD020"]
    told["parameters"] = [each.detach().flatten().tolist() for each in model.parameters()]
    return told


def test_healthy_stages_are_equal_to_the_bit_and_silent(ranks: Ranks) -> None:
    for bare, watched in ranks(STAGES, lambda r: (trained(r, "bare"), trained(r, "healthy"))):
        assert watched["parameters"] == bare["parameters"]
        assert watched["findings"] == []
        assert watched["why"] == ["the processes are stages of a pipeline"]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_stage_at_which_it_began_is_named_by_all(where: str, ranks: Ranks) -> None:
    def work(rank: int) -> Any:
        return [trained(rank, "sick", sick, where) for sick in range(STAGES)]

    code = "NAN004" if where == "forward" else "NAN002"
    for told in ranks(STAGES, work):
        for sick, each in enumerate(told):
            assert each["findings"] == [[code, line(where), 2]]
            assert each["raised"].endswith(f"of step 2, on rank {sick}.")


def test_stages_that_are_made_after_the_watch_are_thought_of(ranks: Ranks) -> None:
    def work(rank: int) -> str:
        model = nn.Linear(6, 2 + rank)
        try:
            with NanWatch(model, torch.optim.SGD(model.parameters(), 0.1), out="run", timeout=30):
                pass
        except Exception as error:
            return str(error)
        return ""

    for said in ranks(2, work):
        assert said.endswith("of a pipeline, make its `PipelineStage` before the watch begins.")


def interleaved(rank: int, state: str, sick: int | None = None, where: str = "") -> dict[str, Any]:
    """Three steps over four stages, two a rank, of which one is sick in the second step."""
    from torch.distributed.pipelining import PipelineStage, ScheduleInterleaved1F1B

    torch.manual_seed(rank)
    model = nn.ModuleList([Stage(), Stage()])
    stages = [
        PipelineStage(each, rank + 2 * place, 4, torch.device("cpu"))
        for place, each in enumerate(model)
    ]
    schedule = ScheduleInterleaved1F1B(stages, 4, loss_fn=F.cross_entropy)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    chance = torch.Generator().manual_seed(0)

    def loop() -> None:
        for step in range(3):
            for place, each in enumerate(model):
                each.sick = where if (step, rank + 2 * place) == (1, sick) else None
            x = torch.randn(8, 6, generator=chance)
            optimizer.zero_grad()
            schedule.step(x) if rank == 0 else schedule.step(target=x.argmax(-1))
            optimizer.step()

    told: dict[str, Any] = {"findings": []}
    if state == "bare":
        loop()
    else:
        watch = NanWatch(model, optimizer, out=f"{state}{sick}{where}", timeout=30)
        try:
            with watch:
                loop()
        except PoisonedStep as refusal:
            told["raised"] = refusal.finding.message
        told["findings"] = [(f.code, f.source, f.step) for f in watch.findings]
    told["parameters"] = [each.detach().flatten().tolist() for each in model.parameters()]
    return told


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_of_several_stages_a_rank_the_one_at_which_it_began_is_named(
    where: str, ranks: Ranks
) -> None:
    def work(rank: int) -> Any:
        return [interleaved(rank, "sick", sick, where) for sick in range(4)]

    code = "NAN004" if where == "forward" else "NAN002"
    for told in ranks(2, work):
        for sick, each in enumerate(told):
            assert each["findings"] == [[code, line(where), 1]]
            assert each["raised"].endswith(f"of step 1, on rank {sick % 2}.")


def test_several_healthy_stages_a_rank_are_equal_to_the_bit_and_silent(ranks: Ranks) -> None:
    def work(rank: int) -> Any:
        return interleaved(rank, "bare"), interleaved(rank, "healthy")

    for bare, watched in ranks(2, work):
        assert watched["parameters"] == bare["parameters"]
        assert watched["findings"] == []
