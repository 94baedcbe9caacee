"""What is missing is looked for after something has written over what marks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
NAN = float("nan")


def data(mark: float = -1.0) -> Batch:
    """y, tags: 0 and 1, and 0 to 3, but for marks. many: numbers. counts: with zeros."""
    seed_everything(0)
    x, gone = torch.randn(24, 9), torch.rand(24, 4) < 0.3
    y = (x[:, :4] > 0).float().masked_fill(gone, mark)
    tags = torch.randint(4, (24,)).masked_fill(gone[:, 0], -1)
    seen = x.masked_fill(torch.rand(24, 9) < 0.2, NAN)
    counts = torch.randint(4, (24, 4)).float()
    return {"x": x, "y": y, "tags": tags, "seen": seen, "counts": counts, "other": y.flip(0)}


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, 16), nn.ReLU())
        self.head, self.words = nn.Linear(16, width), nn.Embedding(4, 16)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        hidden = self.body(x)
        if ids is not None:
            hidden = hidden + self.words(ids.clamp(min=0)) * (ids >= 0)[:, None]
        active = hidden * (hidden > 0)
        scores: Tensor = self.head(active)
        return scores


class Scores(Net):
    """Which has its loss inside."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.head(self.body(x))
        y = y.clamp(min=0)
        return weighed(logits, y, y >= 0)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.loss(x, x if y is None else y)


def said(loss: Loss, model: nn.Module | None = None, **changed: Tensor) -> list[Finding]:
    batch = data() | changed
    subject = Subject(model or Net(), [batch], loss, lambda m: Adam(m.parameters()))
    judged = check(subject, chosen(["MSK016"]))
    assert not [each for each in judged.not_judged if "raised" in each.why]
    return list(judged.findings)


def weighed(logits: Tensor, y: Tensor, known: Tensor) -> Tensor:
    each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def masked(logits: Tensor, y: Tensor) -> Tensor:
    return weighed(logits, y, y >= 0)


def in_place(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"].clone()
    y[y < 0] = 0
    return F.binary_cross_entropy_with_logits(model(batch["x"])[y != -1], y[y != -1])


def clamped_in_place(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"].clone().clamp_(0, 1).double().float()
    return weighed(model(batch["x"]), y, ~(y == -1))


def by_fill(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"].masked_fill(batch["y"] == -1, 0).flatten()
    return weighed(model(batch["x"]).flatten(), y, y.ge(0))


def by_where(model: nn.Module, batch: Batch) -> Tensor:
    y = torch.where(batch["y"] < 0, torch.zeros(()), batch["y"])
    return torch.where(y < 0, 0.0, (model(batch["x"]) - y).square()).mean()


def by_column(model: nn.Module, batch: Batch) -> Tensor:
    logits, y = model(batch["x"]), batch["y"].relu()
    total = logits.new_zeros(())
    for i in range(y.shape[1]):
        known = y[:, i] >= 0
        total = total + F.binary_cross_entropy_with_logits(logits[known, i], y[known, i])
    return total


def ignored(model: nn.Module, batch: Batch) -> Tensor:
    return nn.CrossEntropyLoss(ignore_index=-1)(model(batch["x"]), batch["tags"].clamp(min=0))


def rebuilt(model: nn.Module, batch: Batch) -> Tensor:
    x = torch.nan_to_num(batch["seen"])
    return ((model(x) - x).square() * ~torch.isnan(x)).mean()


def rebuilt_finite(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["seen"].nan_to_num(nan=0.5)
    known = x.isfinite()
    return F.mse_loss(model(x)[known], x[known])


@pytest.mark.parametrize(
    ("loss", "model", "key"),
    [
        (in_place, None, "y"),
        (clamped_in_place, None, "y"),
        (by_fill, None, "y"),
        (by_where, None, "y"),
        (by_column, None, "y"),
        (ignored, None, "tags"),
        (rebuilt, Net(9), "seen"),
        (rebuilt_finite, Net(9), "seen"),
        (lambda m, b: m(b["x"], b["y"]), Scores(), "y"),
    ],
)
def test_marks_that_were_bounded_away_are_scored(
    loss: Loss, model: nn.Module | None, key: str
) -> None:
    (found,) = said(loss, model)
    assert found.verdict is Verdict.FAIL
    assert f"nothing missing in `{key}`" in found.message
    assert found.site == ("model" if isinstance(model, Scores) else "<loss>")


def test_in_another_function_it_is_a_warning() -> None:
    (found,) = said(lambda m, b: masked(m(b["x"]), b["y"].clamp(min=0)))
    assert found.verdict is Verdict.WARN
    assert "test_defeated_mask.py" in found.message


def test_marks_are_counted() -> None:
    y = data(mark=-100)["y"]
    (found,) = said(by_fill_of_hundred, y=y)
    count = int((y == -100).sum())
    assert "has turned -100 into 1 before" in found.message
    assert f"{count} of {y.numel()} entries are marked" in found.message
    assert found.evidence[0].value == count


def by_fill_of_hundred(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"].masked_fill(batch["y"] == -100, 1)
    return weighed(model(batch["x"]), y, y > -100)


def mask_first(model: nn.Module, batch: Batch) -> Tensor:
    known, y = batch["y"] >= 0, batch["y"].clamp(min=0)
    return weighed(model(batch["x"]), y, known & (y >= 0))


def picked(model: nn.Module, batch: Batch) -> Tensor:
    tags = batch["tags"]
    each = model(batch["x"]).log_softmax(-1).gather(1, tags.clamp(min=0)[:, None])[:, 0]
    return -(each * (tags >= 0)).mean()


def smoothed(model: nn.Module, batch: Batch) -> Tensor:
    missing = batch["tags"].eq(-1)
    scores, tags = model(batch["x"]), batch["tags"].clamp(min=0)
    each = F.cross_entropy(scores, tags, reduction="none", ignore_index=-1)
    return each.masked_fill(missing, 0).mean()


def asserted(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"].clamp(min=0)
    assert (y >= 0).all()
    return weighed(model(batch["x"]), y, batch["y"] >= 0)


def asserted_and_scored(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"].clamp(min=0)
    assert (y >= 0).all()
    return F.binary_cross_entropy_with_logits(model(batch["x"]), y)


def counted(model: nn.Module, batch: Batch) -> Tensor:
    counts = batch["counts"].clamp(min=1)
    return ((model(batch["x"]) - counts.log()).square() * (counts > 0) / counts).mean()


def capped(model: nn.Module, batch: Batch) -> Tensor:
    counts = batch["counts"].clamp(max=2)
    return ((model(batch["x"]) - counts).square() * ((counts >= 0) & (counts < 3))).mean()


def imputed(model: nn.Module, batch: Batch) -> Tensor:
    seen = batch["seen"]
    x = torch.where(seen.isnan(), 0.5, seen)
    x = torch.where(torch.isfinite(x), x, torch.zeros_like(x))
    return weighed(model(x), batch["y"].clamp(min=0), batch["y"] >= 0)


def imputed_and_scored(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["seen"].nan_to_num(0.5)
    return F.mse_loss(model(x), torch.where(x.isnan(), torch.zeros_like(x), x))


def only_asked(model: nn.Module, batch: Batch) -> Tensor:
    """Of an attribute which is no label."""
    known = batch["tags"].clamp(min=0) >= 0
    return ((model(batch["x"]) - batch["counts"]).square() * known[:, None]).mean()


def observed(model: nn.Module, batch: Batch) -> Tensor:
    known, x = ~batch["seen"].isnan(), batch["seen"].nan_to_num()
    assert not torch.isnan(x).any()
    return ((model(x) - x).square() * known).mean()


def several(model: nn.Module, batch: Batch) -> Tensor:
    """Of one what is missing counts as a no, on purpose."""
    logits = model(batch["x"])
    return masked(logits, batch["y"].clamp(min=0)) + masked(logits, batch["other"])


def signs(model: nn.Module, batch: Batch) -> Tensor:
    return masked(model(batch["x"]), batch["x"][:, :4].sign().clamp(min=0))


def two_classes(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["signs"].clamp(min=0)
    return weighed(model(batch["x"]), y, y >= 0)


def clipped(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"].clamp(min=0)
    return ((model(x) - x[:, :4]).square() * (x[:, :4] >= 0)).mean()


def ids_too(model: nn.Module, batch: Batch) -> Tensor:
    y = batch["y"]
    return weighed(model(batch["x"], batch["tags"]), y.clamp(min=0), y >= 0)


def filled_from_another(model: nn.Module, batch: Batch) -> Tensor:
    y = torch.where(batch["y"] < 0, batch["sure"], batch["y"])
    return weighed(model(batch["x"]), y, y >= 0)


def pseudo_labels(model: nn.Module, batch: Batch) -> Tensor:
    logits, y = model(batch["x"]), batch["y"].clone()
    guess = torch.zeros_like(y)
    guess[:] = (logits.detach() > 9).float()
    y = y.where(y >= 0, guess)
    return weighed(logits, y, y >= 0)


def taken_as_no(model: nn.Module, batch: Batch) -> Tensor:
    tags = batch["hundreds"].clamp(min=0)
    return F.cross_entropy(model(batch["x"]), tags)


@pytest.mark.parametrize(
    ("loss", "model"),
    [
        (mask_first, None),
        (picked, None),
        (smoothed, None),
        (asserted, None),
        (asserted_and_scored, None),
        (counted, None),
        (capped, None),
        (imputed, None),
        (imputed_and_scored, Net(9)),
        (only_asked, None),
        (observed, Net(9)),
        (several, None),
        (signs, None),
        (clipped, None),
        (ids_too, None),
        (taken_as_no, None),
        (two_classes, None),
        (filled_from_another, None),
        (pseudo_labels, None),
    ],
)
def test_what_is_meant_is_silence(loss: Loss, model: nn.Module | None) -> None:
    x, tags = data()["x"][:, :4], data()["tags"]
    changed = {"hundreds": tags.masked_fill(tags < 0, -100), "sure": (x > 0.1).float()}
    assert not said(loss, model, signs=x.sign(), **changed)


def test_without_marks_it_is_not_judged() -> None:
    batch = {"x": torch.randn(8, 9), "y": torch.ones(8, 4)}
    subject = Subject(
        Net(), [batch], lambda m, b: masked(m(b["x"]), b["y"]), lambda m: Adam(m.parameters())
    )
    (why,) = check(subject, chosen(["MSK016"])).not_judged
    assert "no key" in why.why
