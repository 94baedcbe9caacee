"""Noise that keeps samples from being memorised is found by training without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.asked import Asked
from overfit.curves import Accuracy, Curves
from overfit.diagnose import examine
from overfit.look import Look, kept_start
from overfit.outcome import outcome
from overfit.quiet import Quiet, _Expected, quiet
from overfit.trials import Trials
from probes import Ratio, Subject
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Noisy(nn.Module):
    """Reads its input beside noise, or not at all."""

    def __init__(self, noise: float, reads: float) -> None:
        super().__init__()
        self.noise, self.reads = noise, reads
        self.body = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.reads
        if self.training:
            x = x + self.noise * torch.randn_like(x)
        return self.body(x)  # type: ignore[no-any-return]


def subject(noise: float, reads: float = 1.0) -> Subject:
    seed_everything(0)
    x, y = torch.randn(20, 8), torch.arange(20) % 3
    return Subject(
        Noisy(noise, reads),
        [{"x": x[i : i + 4], "y": y[i : i + 4]} for i in range(0, 20, 4)],
        lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
        lambda m: torch.optim.Adam(m.parameters(), lr=5e-3),
        metrics={"class": lambda m, b: Ratio((m(b["x"]).argmax(1) == b["y"]).sum(), len(b["y"]))},
    )


def verdicts(one: Subject, out: Path) -> tuple[Finding, ...]:
    asked = Asked(quick=True, sizes=(5,), steps=150, hunted=False)
    found = examine(one, asked, out / "run").judgement.findings
    return tuple(each for each in found if each.code.startswith("FIT"))


def test_what_is_drawn_is_its_mean() -> None:
    x = torch.ones(4, 3)
    with _Expected() as expected:
        assert torch.equal(torch.randn(2, 2), torch.zeros(2, 2))
        assert torch.equal(torch.randn_like(x), torch.zeros(4, 3))
        assert torch.equal(torch.rand(5), torch.full((5,), 0.5))
        assert torch.equal(torch.empty(3).uniform_(1, 3), torch.full((3,), 2.0))
        assert torch.equal(torch.empty(3).normal_(4, 2), torch.full((3,), 4.0))
        assert torch.equal(torch.normal(2 * x, 3.0), 2 * x)
        assert torch.equal(torch.normal(5.0, 1.0, (2,)), torch.full((2,), 5.0))
        assert torch.equal(torch.distributions.Normal(x, 3 * x).rsample(), x)
        assert torch.equal(torch.bernoulli(x * 0.25), x * 0.25)
        assert torch.equal(torch.empty(2).bernoulli_(0.75), torch.full((2,), 0.75))
        torch.testing.assert_close(F.dropout(x, 0.4), x)
        torch.testing.assert_close(F.dropout(x.clone().requires_grad_(), 0.4).detach(), x)
        assert torch.randint(1000, (64,)).unique().numel() > 1
    assert any(each.startswith("tests/overfit/test_quiet.py") for each in expected.sources)


def test_noise_that_hides_the_input_leads_and_its_line_is_told(tmp_path: Path) -> None:
    lead = verdicts(subject(noise=60.0), tmp_path)[0]
    assert (lead.code, lead.confirmed) == ("FIT011", True)
    assert lead.source is not None
    assert lead.source.startswith("tests/overfit/test_quiet.py:")
    assert "with every number that is drawn held at its mean" in lead.message
    assert lead.source in lead.fix


@pytest.mark.parametrize("noise", [0.0, 60.0])
def test_noise_beside_an_input_that_is_not_read_is_not_to_blame(
    noise: float, tmp_path: Path
) -> None:
    found = verdicts(subject(noise, reads=0.0), tmp_path)
    assert found[0].code == "FIT007"
    assert not any(each.confirmed for each in found)


@pytest.mark.parametrize(
    ("trained", "evaluated", "code"),
    [(2e-5, 14.0, "FIT014"), (0.9, 14.0, "FIT011"), (0.9, 0.8, "FIT011")],
)
def test_draws_that_training_learns_through_are_not_what_evaluation_lacks(
    trained: float, evaluated: float, code: str
) -> None:
    still = Quiet(25, 0.05, 1.0, ("train.py:3",))
    look = Look(trained=trained, evaluated=evaluated, noise=trained / 9, trials=Trials(quiet=still))
    course = Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=100,
        unit="samples",
        steps=tuple(range(100)),
        losses=(1.1, *[trained, 1.1 * trained] * 49, trained),
        heads={"class": Accuracy((0, 100), (1.0, 3.0), (5.0, 5.0))},
        ended="steps",
        look=look,
    )
    lead = next(each for each in outcome(course).findings if each.verdict is Verdict.FAIL)
    assert lead.code == code
    assert ("in 25 steps, all of them right" in lead.message) is (code == "FIT011")


def test_a_little_noise_is_memorised_through(tmp_path: Path) -> None:
    assert [each.code for each in verdicts(subject(noise=0.05), tmp_path)] == ["FIT001"]


def test_the_model_is_left_as_it_was() -> None:
    one = subject(noise=60.0)
    began = kept_start(one.model)
    with torch.no_grad():
        for each in one.model.parameters():
            each.add_(1.0)
    ended = kept_start(one.model)
    found = quiet(one, list(one.batches), began, 200)
    assert found.right == 1.0
    assert found.steps < 200
    assert all(torch.equal(ended[name], v) for name, v in one.model.state_dict().items())


class Denoiser(nn.Module):
    """Tells what noise was drawn beside its input, or reads nothing of that."""

    def __init__(self, reads: float) -> None:
        super().__init__()
        self.reads = reads
        self.body = nn.Sequential(nn.Linear(9, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor) -> Tensor:
        time, noise = torch.rand(len(x), 1), torch.randn_like(x)
        seen = self.reads * x * (1 - time) + (noise * time if self.reads else 0)
        return F.mse_loss(self.body(torch.cat([seen, time], 1)), noise)


@pytest.mark.parametrize("reads", [1.0, 0.0])
def test_a_loss_of_drawn_targets_is_learned_where_the_draws_stay_the_same(
    reads: float, tmp_path: Path
) -> None:
    seed_everything(0)
    x = torch.randn(10, 8)
    one = Subject(
        Denoiser(reads),
        [{"x": x[:5]}, {"x": x[5:]}],
        lambda m, b: m(b["x"]),
        lambda m: torch.optim.Adam(m.parameters(), lr=1e-2),
    )
    found = verdicts(one, tmp_path)
    assert ("FIT001" in [each.code for each in found]) is (reads > 0)
    assert ("with the same draws in every pass" in found[0].message) is (reads > 0)
