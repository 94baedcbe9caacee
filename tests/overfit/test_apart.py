"""Samples that are told apart by their labels, where a share of the loss says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from overfit.apart import Apart, apart, label_keys
from overfit.curves import Accuracy, Curves, read_curves
from overfit.plan import Plan
from overfit.rules.memorised import Memorised
from overfit.rules.not_memorised import NotMemorised
from overfit.suite import run_suite
from probes import Subject
from probes.run import Run
from probes.subject import Batch

Loss = Callable[[nn.Module, Batch], Tensor]


class Density(nn.Module):
    """A mean and a log deviation for every sample. reads: whether the mean does."""

    def __init__(self, reads: bool = True) -> None:
        super().__init__()
        self.reads = reads
        self.body = nn.Sequential(nn.Linear(6, 96), nn.SiLU())
        self.mean, self.spread = nn.Linear(96, 2), nn.Linear(96, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.mean(hidden if self.reads else 0 * hidden), self.spread(hidden)


def density(model: nn.Module, batch: Batch) -> Tensor:
    mean, spread = model(batch["x"])
    found: Tensor = torch.distributions.Normal(mean, spread.clamp(-3, 3).exp()).log_prob(batch["y"])
    return -found.sum(-1).mean()


def policy(model: nn.Module, batch: Batch) -> Tensor:
    return -(model(batch["x"])[0].log_softmax(-1)[:, 0] * batch["y"][:, 0]).mean()


def subject(model: nn.Module, loss: Loss = density, scale: float = 0.2) -> Subject:
    torch.manual_seed(0)
    return Subject(
        model,
        [{"x": torch.randn(8, 6), "y": scale * torch.randn(8, 2)}],
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=2e-3),
    )


def ran(model: nn.Module, folder: Path, steps: int = 300) -> Curves:
    torch.manual_seed(0)
    plan = Plan(8, (8,), steps=steps, every=10, in_a_row=2)
    run_suite(subject(model), plan, folder, lambda done, said: None)
    return read_curves(Run(folder))


def test_a_density_that_meets_its_labels_is_memorised(tmp_path: Path) -> None:
    curves = ran(Density(), tmp_path)
    assert (curves.ended, curves.apart is not None and curves.apart.told) == ("memorised", True)
    assert curves.end < -1
    (finding,) = Memorised().judge(curves)
    assert "without a least" in finding.message


def test_a_density_that_only_knows_how_far_labels_lie_is_not(tmp_path: Path) -> None:
    curves = ran(Density(reads=False), tmp_path)
    assert (curves.ended, curves.end < 0) == ("steps", True)
    assert not Memorised().holds(curves)
    (finding,) = NotMemorised().judge(replace(curves, look=None))
    assert "lower with another's label" in finding.message


def test_what_other_labels_give_as_well_is_no_share_that_was_learned() -> None:
    losses = (100.0, *[2.0] * 9)
    curves = Curves("a", 5, 0, 10, "samples", tuple(range(10)), losses)
    assert Memorised().holds(curves)
    assert not Memorised().holds(replace(curves, apart=Apart(1, 2, 2.0, 2.0)))
    assert Memorised().holds(replace(curves, apart=Apart(5, 5, 2.0, 400.0)))


def test_a_head_may_lack_a_little_at_the_end_where_every_label_is_the_likeliest() -> None:
    head = Accuracy((0, 9), (0.0, 18.0), (20.0, 20.0))
    losses = (6.0, *[-4.0] * 9)
    curves = Curves("a", 20, 0, 10, "samples", tuple(range(10)), losses, {"ok": head})
    told = replace(curves, apart=Apart(20, 20, -4.0, 50.0))
    assert not Memorised().holds(told)
    assert Memorised().holds(replace(told, ended="steps"))
    assert not Memorised().holds(replace(curves, ended="steps"))
    assert not Memorised().holds(replace(told, ended="steps", apart=Apart(2, 4, -4.0, 50.0)))
    fewer = replace(head, hits=(0.0, 17.0))
    assert not Memorised().holds(replace(told, ended="steps", heads={"ok": fewer}))


@pytest.mark.parametrize("loss", [policy])
def test_what_is_paid_for_is_no_label(loss: Loss) -> None:
    found = subject(Density(), loss, scale=1.0)
    batches = list(found.batches)
    assert label_keys(found, batches[0]) == ("y",)
    assert apart(found, batches, ("y",)) is None


def test_weights_modes_and_random_numbers_are_as_before() -> None:
    found = subject(Density())
    batches = list(found.batches)
    found.model.train()
    before, drawn = [each.clone() for each in found.model.parameters()], torch.get_rng_state()
    first = apart(found, batches, ("y",))
    assert first is not None
    assert math.isfinite(first.own)
    assert first.others > first.own or not first.told
    assert all(map(torch.equal, before, found.model.parameters()))
    assert torch.equal(drawn, torch.get_rng_state())
    assert found.model.training
    assert first == apart(found, batches, ("y",))


class Vectors(nn.Module):
    """Gives a vector for each sample, which is to lie along that of its class."""

    def __init__(self) -> None:
        super().__init__()
        self.classes: Tensor
        self.register_buffer("classes", torch.randn(4, 12))
        self.body = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def along(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Vectors)
    return -torch.cosine_similarity(model(batch["x"]), model.classes[batch["y"]]).mean()


@pytest.mark.parametrize(("rate", "ended"), [(1e-2, "memorised"), (1e-6, "steps")])
def test_a_cosine_to_vectors_of_classes_is_memorised_where_it_tells_them(
    rate: float, ended: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    one = Subject(
        Vectors(),
        [{"x": torch.randn(8, 6), "y": torch.arange(8) % 4}],
        along,
        lambda m: torch.optim.Adam(m.parameters(), lr=rate),
    )
    plan = Plan(8, (8,), steps=150, every=10, in_a_row=2)
    run_suite(one, plan, tmp_path, lambda done, said: None)
    assert read_curves(Run(tmp_path)).ended == ended


def critic(model: nn.Module, batch: Batch) -> Tensor:
    mean, spread = model(batch["x"])
    taken, value = mean.log_softmax(-1).gather(1, batch["y"][:, None])[:, 0], spread.sum(-1)
    paid = batch["paid"] - value.detach()
    return -(taken * paid).mean() + (value - batch["paid"]).square().mean()


def test_nothing_is_told_of_actions_beside_what_they_were_paid() -> None:
    batch = {"x": torch.randn(8, 6), "y": torch.arange(8) % 2, "paid": torch.randn(8)}
    one = Subject(Density(), [batch], critic, lambda m: torch.optim.Adam(m.parameters()))
    assert apart(one, [batch], ("y", "paid")) is None
    assert apart(one, [batch], ("y",)) is not None
