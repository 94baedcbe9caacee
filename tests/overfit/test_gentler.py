"""Smaller steps from the start, where training has made the model blind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from overfit.curves import Curves
from overfit.gentler import Gentler, gentler
from overfit.look import Look, Looker, kept_start
from overfit.rules.step_overshoots import StepTooLarge
from overfit.trials import Trials
from probes import Subject

Batch = dict[str, Tensor]
STEPS = 100


class Last(nn.Module):
    """The last state of a recurrent layer, and what a head makes of it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.rnn = nn.GRU(6, 24, batch_first=True)
        self.head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.rnn(x * self.scale)
        return self.head(last[-1])  # type: ignore[no-any-return]


def subject(model: nn.Module, rate: float) -> Subject:
    chance = torch.Generator().manual_seed(3)
    x = 1.0 + 0.1 * torch.randn(5, 8, 6, generator=chance)
    return Subject(
        model,
        [{"x": x, "y": torch.tensor([0, 1, 2, 0, 1])}],
        lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"]),
        lambda m: torch.optim.Adam(m.parameters(), lr=rate),
    )


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))


def tried(one: Subject) -> tuple[Gentler, ...]:
    began = kept_start(one.model)
    looker = Looker(one, list(one.batches), began, STEPS)
    return gentler(one, list(one.batches), began, STEPS, (0.1, 0.0), looker._reading)


def blind(found: tuple[Gentler, ...]) -> Curves:
    look = Look(noise=0.0, reading=0.0, began_reading=0.1, moved=1.0, size=1.7)
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=STEPS,
        unit="samples",
        steps=tuple(range(STEPS)),
        losses=(1.1, *[1.06] * (STEPS - 1)),
        ended="steps",
        look=replace(look, trials=Trials(gentler=found)),
    )


@pytest.mark.parametrize(
    ("model", "rate", "killed"),
    [(lambda: Last(2000.0), 1e-3, False), (lambda: Last(1.0), 1.0, True), (flat, 1.0, True)],
    ids=["saturated", "gru", "relu"],
)
def test_a_step_killed_the_model_only_if_a_smaller_one_learns(
    model: type[nn.Module], rate: float, killed: bool
) -> None:
    torch.manual_seed(0)
    one = subject(model(), rate)
    before = kept_start(one.model)
    found = tried(one)
    assert [each.factor for each in found] == pytest.approx([0.1, 0.01])
    assert all(torch.equal(v, before[k]) for k, v in one.model.state_dict().items())
    told = blind(found)
    assert StepTooLarge().killed(told) == killed, found
    assert told.look is not None
    assert Look.from_json(told.look.as_json()) == told.look


def test_nothing_is_tried_where_training_took_nothing_away() -> None:
    one = subject(flat(), 1.0)
    began, read = kept_start(one.model), [(0.1, 0.2), (0.0, 0.0), (None, 0.0)]
    assert not any(gentler(one, one.batches, began, STEPS, each, lambda: 0.1) for each in read)
    own = replace(one, train_step=lambda m, b, o: torch.zeros(()))
    assert gentler(own, one.batches, began, STEPS, (0.1, 0.0), lambda: 0.1) == ()
