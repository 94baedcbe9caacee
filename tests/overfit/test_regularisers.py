"""Parts of a loss that read no label: a KL against a prior, a norm of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.curves import Accuracy, Curves
from overfit.look import Look
from overfit.outcome import outcome
from overfit.regularisers import regularisers, unlabelled
from probes import Subject

Batch = dict[str, Any]


class Auto(nn.Module):
    """Also learns the scale of its loss, and can give its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.GRU(4, 6, batch_first=True), nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        mean, spread = self.enc(x)[1][0].chunk(2, -1)
        out = self.dec(mean + torch.randn_like(mean) * spread.exp())
        return F.mse_loss(out, y) if y is not None else (out, mean, spread)


def kl(model: nn.Module, batch: Batch) -> Tensor:
    _, mean, spread = model(batch["x"])
    return (mean.square() + (2 * spread).exp() - 1 - 2 * spread).sum(1).mean() / 2


def size(model: nn.Module, batch: Batch) -> Tensor:
    return torch.stack([each.square().sum() for each in model.parameters()]).sum()


def errors(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"])[0], batch["y"])


def scaled(model: nn.Module, batch: Batch) -> Tensor:
    return errors(model, batch) * model.scale


def inside(model: nn.Module, batch: Batch) -> Tensor:
    loss: Tensor = model(batch["x"], batch["y"])
    return loss


def written(model: nn.Module, batch: Batch) -> Tensor:
    wanted = torch.zeros(5, 4)
    wanted[:, 1:] = batch["y"][:, 1:]
    return F.mse_loss(model(batch["x"])[0], wanted)


def told(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"])[0], torch.tensor(batch["y"].tolist()))


def itself(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch["x"])[0], batch["x"].mean(1))


LEARNING = {each.__name__: each for each in (errors, scaled, inside, written, told, itself)}


def test_a_part_that_the_weights_alone_carry_reads_no_label() -> None:
    torch.manual_seed(0)
    batch: Batch = {"x": torch.randn(5, 3, 4), "y": torch.zeros(5, 4)}  # whatever they are
    own = Subject(
        Auto(),
        [batch],
        lambda model, batch: errors(model, batch) + kl(model, batch),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        parts={"kl": kl, "size": size, **LEARNING},
    )
    assert regularisers(own, batch) == ("kl", "size")
    assert regularisers(own, {**batch, "labels": [1, 2, 3, 4, 5]}) == ()


def test_terms_that_nobody_named_are_known_where_one_reads_no_label() -> None:
    torch.manual_seed(0)
    batch: Batch = {"x": torch.randn(5, 3, 4), "y": torch.zeros(5, 4)}
    model = Auto()
    began = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.zeros_(model.dec.weight)
    nn.init.zeros_(model.dec.bias)
    own = Subject(
        model,
        [batch],
        lambda model, batch: errors(model, batch) + 0.5 * kl(model, batch),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    found = unlabelled(own, [batch], began)
    assert found["regularisers"] == ("term 2",)
    first, last = found["terms"]["term 1"]
    assert (first > 0, last) == (True, 0.0)  # all is zero, as is wanted
    assert found["terms"]["term 2"][1] == pytest.approx(0.5 * float(kl(model, batch).detach()))
    assert not model.dec.weight.any()  # the model is as it was
    two = replace(own, loss=lambda model, batch: errors(model, batch) + itself(model, batch))
    assert unlabelled(two, [batch], began) == {}


KEPT = Curves(
    name="overfit-5-seed0",
    size=5,
    seed=0,
    budget=400,
    unit="samples",
    steps=tuple(range(400)),
    losses=tuple([100 * 0.9**i for i in range(26)] + [6.5] * 374),
    heads={"0": Accuracy((0, 10), (60.0, 98.0), (100.0, 100.0))},
    derived=True,
    ended="steps",
    look=Look(evaluated=6.5, noise=0.3, regularisers=("kl",)),
    parts={"rec": (99.0, 4.0), "kl": (0.1, 2.5)},
)


def codes(curves: Curves) -> list[str]:
    return [each.code for each in outcome(curves).findings]


def test_a_loss_that_a_prior_keeps_up_is_memorised_where_the_rest_is_gone() -> None:
    assert codes(KEPT) == ["FIT001"]
    assert KEPT.look is not None
    unnamed = replace(
        KEPT.look, regularisers=("term 2",), terms={"term 1": (99, 4), "term 2": (0, 2)}
    )
    assert codes(replace(KEPT, parts={}, look=unnamed)) == ["FIT001"]


def test_a_part_that_reads_no_label_is_no_head_that_is_stuck() -> None:
    more = replace(KEPT, parts={"rec": (99.0, 9.0), "kl": (0.1, 2.5)})
    assert codes(more) == ["FIT002"]  # though not memorised
    assert codes(replace(more, look=Look(evaluated=6.5)))[0] == "FIT008"  # of a label's
    drowned = replace(KEPT, parts={"rec": (1.1, 1.0), "kl": (90.0, 0.1)})
    assert codes(drowned)[0] == "FIT008"  # it is the other that is stuck


@pytest.mark.parametrize(
    "less",
    [
        {"parts": {"rec": (99.0, 9.0), "kl": (0.1, 2.5)}},
        {"look": Look(evaluated=60.0, regularisers=("kl",))},  # a term that is no part
        {"look": Look(evaluated=6.5, regularisers=("rec", "kl"))},  # nothing reads a label
        {"heads": {"0": Accuracy((0, 10), (60.0, 90.0), (100.0, 100.0))}},
    ],
)
def test_it_is_not_where_something_else_is_left(less: dict[str, Any]) -> None:
    assert "FIT001" not in codes(replace(KEPT, **less))
