"""An input that fades on its way through layers whose weights begin too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.asked import Asked
from overfit.curves import Curves
from overfit.diagnose import examine
from overfit.fade import fade
from overfit.look import Look, kept_start
from overfit.outcome import _with_fading
from probes import Ratio, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything
from probes.stepping.fading import Fading

Batch = dict[str, Tensor]


class Deep(nn.Module):
    """Layers with a tanh each, or a norm before each and what it read beside it."""

    def __init__(self, std: float, depth: int, normed: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(6, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(depth if normed else 0))
        self.head = nn.Linear(32, 3)
        for each in (self.first, *self.layers):
            nn.init.normal_(each.weight, std=std)
            nn.init.zeros_(each.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for place, layer in enumerate(self.layers):
            x = x + layer(self.norms[place](x)) if len(self.norms) else torch.tanh(layer(x))
        logits: Tensor = self.head(x)
        return logits


def right(model: nn.Module, batch: Batch) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def subject(model: nn.Module) -> Subject:
    seed_everything(0)
    x, y = torch.randn(18, 6), torch.arange(18) % 3
    return Subject(
        model,
        [{"x": x[i : i + 6], "y": y[i : i + 6]} for i in range(0, 18, 6)],
        lambda m, b: F.cross_entropy(m(b["x"]), b["y"]),
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9),
        predict=lambda m, b: m(b["x"]),
        metrics={"class": right},
    )


def found(model: nn.Module, reading: float | None = 0.0) -> Fading | None:
    one = subject(model)
    return fade(one, next(iter(one.batches)), kept_start(model), reading)


def test_a_row_of_layers_that_leave_little_each_is_told_with_what_would_keep_the_input() -> None:
    seed_everything(0)
    told = found(Deep(0.02, 8))
    assert told is not None
    assert (told.site, told.layers) == ("first", 9)
    assert told.left < 1e-6
    assert told.hides
    assert not replace(told, left=1e-4).hides
    assert told.deviation == pytest.approx(0.02, rel=0.1)
    assert told.kept == pytest.approx(32**-0.5, rel=0.3)
    assert "from `first` on 9 layers leave " in told.words


def test_layers_that_keep_the_input_or_carry_it_past_are_not_told() -> None:
    seed_everything(0)
    assert found(Deep(32**-0.5, 8)) is None
    assert found(Deep(0.02, 8, normed=True)) is None
    assert found(Deep(0.02, 8), reading=0.1) is None  # it is read
    assert found(Deep(0.02, 8), reading=None) is None


def test_an_input_without_effect_says_that_it_fades() -> None:
    seed_everything(0)
    (one,) = check(subject(Deep(0.005, 12)), chosen(only=["WIR007"])).findings
    assert (one.verdict, one.site) == (Verdict.FAIL, "first")
    assert "the input fades: from `first` on 13 layers" in one.message
    assert check(subject(Deep(32**-0.5, 12)), chosen(only=["WIR007"])).findings == ()


def test_what_fades_a_little_is_not_why_nothing_comes_through() -> None:
    seed_everything(0)
    some, blind = found(Deep(0.06, 8)), Look(reading=0.0, began_reading=0.0, moved=1.0)
    assert some is not None
    assert not some.hides
    lost = Finding("FIT007", "stuck-on-floor", Verdict.FAIL, "it is lost.", "Mend it.", site="a")
    course = Curves("overfit-5-seed0", 5, 0, 9, "samples", (), (), look=replace(blind, fading=some))
    assert _with_fading(lost, course) == lost
    assert _with_fading(replace(lost, code="FIT002"), course).site == "first"


def test_a_suite_that_is_not_memorised_says_that_it_fades(tmp_path: Path) -> None:
    seed_everything(0)
    one = replace(subject(Deep(0.02, 6)), predict=None)
    asked = Asked((5,), quick=True, steps=60)
    lead = examine(one, asked, tmp_path / "run").judgement.findings[0]
    assert lead.site == "first"
    assert "the input fades: from `first` on 7 layers" in lead.message
    assert lead.fix.startswith("Draw larger weights for these layers")
