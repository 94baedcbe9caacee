"""Labels that a mask hides, after training has pulled the open scores down towards them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from overfit.ceilings import UNREACHABLE
from overfit.curves import Accuracy, Curves
from overfit.explains import cause_of
from overfit.look import Looker
from overfit.rules.ceiling_reached import CeilingReached
from probes import Finding, Ratio, Subject, Verdict

Batch = dict[str, Tensor]


class Policy(nn.Module):
    """Scores of four moves, those that are told to be shut at `fill`."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.fill = fill
        self.out = nn.Linear(3, 4)

    def forward(self, x: Tensor, shut: Tensor) -> Tensor:
        return self.out(x).masked_fill(shut, self.fill)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"], batch["shut"]), batch["move"])


def right(model: nn.Module, batch: Batch) -> Ratio:
    hits = model(batch["x"], batch["shut"]).argmax(-1) == batch["move"]
    return Ratio(hits.sum(), len(hits))


def subject(fill: float, sunk: float) -> Subject:
    torch.manual_seed(0)
    model = Policy(fill)
    with torch.no_grad():
        model.out.bias.fill_(sunk)
    shut = torch.zeros(5, 4, dtype=torch.bool)
    shut[0, 1] = shut[3, 2] = True
    batch = {"x": torch.randn(5, 3), "shut": shut, "move": torch.tensor([1, 0, 3, 2, 1])}
    make = lambda m: torch.optim.Adam(m.parameters())  # noqa: E731
    return Subject(model, [batch], loss, make, metrics={"move": right})


@pytest.mark.parametrize("sunk", [0.0, -1e6])
def test_a_masks_score_is_one_however_low_the_others_are(sunk: float) -> None:
    one = subject(-1e9, sunk)
    found = Looker(one, one.batches, {}).facts().ceilings
    (known,) = [each for each in found if each.name == UNREACHABLE]
    assert (known.count, known.samples, known.accuracy) == (2, (0, 3), 0.6)
    assert known.exact
    assert known.loss == pytest.approx(float(loss(one.model, one.batches[0]).detach()), rel=1e-3)


def test_low_scores_that_weights_move_are_no_masks() -> None:
    one = subject(0.0, -1e6)  # the open moves lie far below those that are shut
    found = Looker(one, one.batches, {}).facts().ceilings
    assert not [each for each in found if each.name == UNREACHABLE]


def course(end: float) -> Curves:
    one = subject(-1e9, -1e6)
    found = Looker(one, one.batches, {}).facts().ceilings
    (known,) = [each for each in found if each.name == UNREACHABLE]
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=40,
        unit="samples",
        steps=tuple(range(40)),
        losses=(4e8, *[end] * 39),
        heads={"move": Accuracy((0, 40), (1.0, 1.0), (5.0, 5.0))},
        ended="steps",
        ceilings=(known,),
    )


def test_hidden_labels_that_make_all_of_the_loss_drown_the_others() -> None:
    (one,) = CeilingReached().judge(course(4e8))
    assert "`move` of 5 samples cannot be perfect: 2 of 5 are labels that no" in one.message
    assert not list(CeilingReached().judge(course(8e8)))  # half of it is another matter
    lower = replace(course(4e8).ceilings[0], loss=None)
    assert not list(CeilingReached().judge(replace(course(4e8), ceilings=(lower,))))


def test_a_label_that_is_masked_is_why_a_loss_is_huge_and_a_small_scale_why_a_model_is_blind() -> (
    None
):
    def warned(code: str, site: str) -> Finding:
        return Finding(code, "odd", Verdict.WARN, "it is.", "Mend it.", site=site)

    stuck = Finding("FIT007", "stuck-on-floor", Verdict.FAIL, "it is stuck.", "Look.")
    huge, hidden = warned("WIR010", "<loss>"), warned("IDX003", "<data>")
    assert cause_of(stuck, [huge, hidden]) == hidden
    small = warned("WIR021", "conv1")
    assert cause_of(replace(stuck, site="<data>"), [small]) == small
    assert cause_of(replace(stuck, site="head"), [small]) is None  # it is lost at another place
