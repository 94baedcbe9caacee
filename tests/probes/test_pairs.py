"""What a loss pairs: heads with labels, mixed samples with mixed labels, views with views."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.experiment import Experiment
from probes.finding import Verdict
from probes.scoring.answers import keys
from probes.scoring.answers import scores as scores_of
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Heads(nn.Module):
    """Two heads over one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 12)
        self.noun_head = nn.Linear(12, 3)
        self.verb_head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x).relu()
        return {"noun": self.noun_head(h), "verb": self.verb_head(h)}


def heads(first: str, second: str) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        out = model(batch["x"])
        one = F.cross_entropy(out["noun"], batch[f"{first}_label"])
        return one + F.cross_entropy(out["verb"], batch[f"{second}_label"])

    return loss


def mixed(again: bool) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch["x"], batch["noun_label"]
        order = torch.randperm(len(x))
        scores = model(0.6 * x + 0.4 * x[order])["noun"]
        order = torch.randperm(len(x)) if again else order
        return 0.6 * F.cross_entropy(scores, y) + 0.4 * F.cross_entropy(scores, y[order])

    return loss


def views(interleaved: bool) -> Loss:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        pair = [model(x)["noun"] for x in (batch["x"], batch["x"] + 0.1)]
        z = F.normalize(torch.stack(pair, 1).flatten(0, 1) if interleaved else torch.cat(pair))
        scores = (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
        return F.cross_entropy(scores, torch.arange(len(z)) ^ 1)

    return loss


@pytest.mark.parametrize(
    ("code", "loss", "words"),
    [
        ("LBL002", heads("verb", "noun"), "two heads are scored against each other's labels"),
        ("LBL002", heads("noun", "verb"), None),
        ("IDX002", mixed(again=True), "samples are mixed in one order and their labels in another"),
        ("IDX002", mixed(again=False), None),
        ("IDX002", views(interleaved=False), "the loss pulls together views of different samples"),
        ("IDX002", views(interleaved=True), None),
    ],
)
def test_what_does_not_belong_together_is_told(code: str, loss: Loss, words: str | None) -> None:
    seed_everything(0)
    batch = {"x": torch.randn(9, 6), "noun_label": torch.arange(9) % 3}
    if code == "LBL002":
        batch["verb_label"] = torch.arange(9) // 3
    if loss.__qualname__.startswith("views"):
        del batch["noun_label"]
    subject = Subject(Heads(), [batch], loss, lambda m: torch.optim.Adam(m.parameters()))
    found = [f.message.partition(":")[0] for f in check(subject, chosen([code])).findings]
    assert found == ([words] if words else [])


def weighed(line: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Of as many samples as features; `line` takes what is of samples, and a number of each."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        shares = torch.linspace(0.1, 1.0, 9)[batch["t"]]
        return F.cross_entropy(model(line(batch["x"], shares))["noun"], batch["noun_label"])

    return loss


def distances(x: Tensor, share: Tensor) -> Tensor:
    square = x.square().sum(1)
    return (square[:, None] - 2 * x @ x.T + square).sqrt() * share[:, None]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (lambda x, share: x * share, True),
        (lambda x, share: x * share[:, None], False),
        (lambda x, share: x * x.std(0) + share[:, None], False),  # of features, not of samples
        (distances, False),  # whose last axis is of samples as well
    ],
)
def test_a_number_a_sample_that_meets_features_is_told(
    line: Callable[[Tensor, Tensor], Tensor], told: bool
) -> None:
    seed_everything(0)
    t = torch.tensor([2, 0, 1, 3, 5, 4])
    batch = {"x": torch.randn(6, 6), "t": t, "noun_label": t % 3}
    subject = Subject(Heads(), [batch], weighed(line), lambda m: torch.optim.Adam(m.parameters()))
    found = check(subject, chosen(["WIR009"])).findings
    assert [(one.site, one.op) for one in found] == ([("<loss>", "mul")] if told else [])


class Kinds(nn.Module):
    """Reads two inputs; its first class is one of reference, or some classes are hidden."""

    def __init__(self, reference: bool) -> None:
        super().__init__()
        self.body, self.reference = nn.Linear(6, 3 if reference else 4), reference

    def forward(self, x: Tensor, extra: Tensor, shown: Tensor) -> Tensor:
        scores: Tensor = self.body(x + 0.1 * extra)
        if self.reference:
            return torch.cat([torch.zeros(len(x), 1), scores], 1)
        return scores.masked_fill(~shown, -20.0)


@pytest.mark.parametrize(
    ("reference", "given", "last", "told"),
    [
        (False, "x", 4, {"IDX003"}),  # the last samples' labels are hidden
        (False, "x", 2, set()),
        (True, "x", 4, set()),
        (True, "extra", 4, {"WIR007"}),  # `extra` is handed over as `x`
    ],
)
def test_what_no_weights_move_and_what_goes_by_another_name(
    reference: bool, given: str, last: int, told: set[str]
) -> None:
    seed_everything(0)
    labels = torch.arange(9) % 4
    shown = (torch.arange(4) < 2) | (torch.arange(4) == labels[:, None]) & (last < 4)
    batch = {"x": torch.randn(9, 6), "extra": torch.randn(9, 6), "shown": shown, "label": labels}
    subject = Subject(
        Kinds(reference),
        [batch],
        lambda model, b: F.cross_entropy(model(b[given], b["extra"], b["shown"]), b["label"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = check(subject, chosen(["IDX003", "WIR007"])).findings
    assert {one.code for one in found if one.verdict is not Verdict.NOTE} == told


@pytest.mark.parametrize("turned", [False, True])
def test_of_as_many_classes_as_places_the_gradient_tells_the_axis(turned: bool) -> None:
    seed_everything(0)
    body = nn.Sequential(nn.Conv1d(4, 12, 3, padding=1), nn.ReLU(), nn.Conv1d(12, 6, 1))
    batch = {"x": torch.randn(9, 4, 6), "tags": torch.randint(6, (9, 6))}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["x"])  # (sample, class, place)
        return F.cross_entropy(scores.mT if turned else scores, batch["tags"])

    subject = Subject(body, [batch], loss, lambda model: torch.optim.Adam(model.parameters()))
    found = check(subject, chosen(["LBL002"])).findings
    assert [one.code for one in found] == []
    labels = next(keys(experiment := Experiment.of(subject)))
    assert scores_of(experiment, labels).first is not turned


@pytest.mark.parametrize("labels_too", [False, True])
def test_a_step_of_the_subject_s_own_that_shuffles_inputs_is_held_against_what_it_minimises(
    labels_too: bool,
) -> None:
    def train_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
        order = torch.randperm(len(batch["x"]))
        kinds = batch["kind"][order] if labels_too else batch["kind"]
        value = F.cross_entropy(model(batch["x"][order]), kinds)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    torch.manual_seed(0)
    subject = Subject(
        nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)),
        [{"x": torch.randn(12, 4), "kind": torch.arange(12) % 3}],
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["kind"]),
        lambda model: torch.optim.Adam(model.parameters()),
        train_step=train_step,
    )
    found = check(subject, chosen(only=["IDX011"])).findings
    assert [each.code for each in found] == ([] if labels_too else ["IDX011"])


@pytest.mark.parametrize(
    ("drawn", "words"), [(True, "an order that is drawn anew"), (False, "evaluation mode alike")]
)
def test_where_evaluation_mode_is_parted_too_no_order_is_said_to_be_drawn(
    drawn: bool, words: str
) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, way = batch["x"], torch.randperm(12) if model.training else torch.arange(12)
        order = way if drawn else x[:, 0].argsort()
        scores = model(F.dropout(x, 0.1, model.training)[order])
        return F.cross_entropy(scores, batch["kind"])

    torch.manual_seed(0)
    subject = Subject(
        nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)),
        [{"x": torch.randn(12, 4), "kind": torch.arange(12) % 3}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
    )
    [found] = check(subject, chosen(only=["IDX011"])).findings
    assert words in found.message
