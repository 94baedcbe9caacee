from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.blind import Blind
from overfit.ceilings import CONFLICT, EMPTY, PREFIX, SOFT, UNREACHABLE, UNSCORED, Ceiling
from overfit.facts import Facts
from overfit.floors import MEAN, PRIOR, Floor
from overfit.look import Looker
from probes import Labels, Layout, Mask, Ratio, Reads, Subject

Batch = dict[str, Tensor]


class Table(nn.Module):
    """Scores of every id, whatever stands around it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scores = nn.Embedding(40, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.scores(ids)  # type: ignore[no-any-return]


def facts(batch: Any, loss: Any, model: nn.Module | None = None, **more: Any) -> Facts:
    subject = Subject(
        model or Table(4), [batch], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1), **more
    )
    return Looker(subject, [batch], {}).facts()


def of(found: tuple[Any, ...], name: str, head: str) -> Any:
    return next(each for each in found if (each.name, each.head) == (name, head))


def tags(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["ids"]).flatten(0, -2), batch["labels"].flatten())


def right(model: nn.Module, batch: Batch) -> Ratio:
    hits = (model(batch["ids"]).argmax(-1) == batch["labels"]).sum()
    return Ratio(hits, (batch["labels"] >= 0).sum())


def test_the_prior_of_classes_and_its_entropy() -> None:
    batch = {"ids": torch.arange(4), "labels": torch.tensor([0, 0, 0, 1])}
    found = facts(batch, tags, metrics={"tag": right})
    prior = of(found.floors, PRIOR, "tag")
    assert prior.accuracy == 0.75
    assert prior.loss == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert prior.exact
    assert Floor.from_json(prior.as_json()) == prior


def test_a_batch_that_is_a_tuple_and_a_loss_by_hand_are_read_too() -> None:
    batch = (torch.arange(4), torch.tensor([0, 0, 0, 1]))
    called = facts(batch, lambda m, b: F.cross_entropy(m(b[0]), b[1]))
    assert of(called.floors, PRIOR, "1").accuracy == 0.75
    by_hand = facts(batch, lambda m, b: -m(b[0]).log_softmax(-1).gather(1, b[1][:, None]).mean())
    assert of(by_hand.floors, PRIOR, "1").accuracy is None  # nothing is counted
    assert not of(by_hand.floors, PRIOR, "1").exact


def test_the_mean_of_targets_and_the_median_of_distances() -> None:
    batch = {"x": torch.randn(4, 3), "y": torch.tensor([[0.0], [0.0], [0.0], [4.0]])}
    square = facts(batch, lambda m, b: F.mse_loss(m(b["x"]), b["y"]), nn.Linear(3, 1))
    assert of(square.floors, MEAN, "y").loss == pytest.approx(3.0)
    plain = facts(batch, lambda m, b: F.l1_loss(m(b["x"]), b["y"]), nn.Linear(3, 1))
    assert of(plain.floors, MEAN, "y").loss == pytest.approx(1.0)


def test_gold_prefixes_are_counted_on_the_samples_at_hand() -> None:
    rows = torch.tensor([[1, 2, 3, 1, 2, 0], [1, 2, 3, 1, 2, 3]])
    found = facts({"ids": torch.zeros(2, 6).long(), "labels": rows}, tags, metrics={"tag": right})
    assert of(found.floors, "previous gold token", "tag").accuracy == pytest.approx(11 / 12)
    three = of(found.floors, "previous 3 gold tokens", "tag")
    assert three.accuracy == pytest.approx(11 / 12)  # `3 1 2` goes on with 0 and with 3
    assert three.loss == pytest.approx(2 * math.log(2) / 12)


def test_units_are_one_class_and_themselves_and_turns_repeat() -> None:
    names = ["select", "where", "a.id", "b.id"]
    turns = torch.tensor([[[0, 2, 1, 3, 0], [0, 2, 1, 2, 0]]])  # (sample, turn, time)
    layout = Layout(
        axes={"units": ("sample", "unit"), "steps": ("sample", "turn", "time")},
        names={"units": ["a.id", "b.id"], "steps": names},
        labels=(Labels("labels", "scores"),),
        reads=(Reads("scores", of="ids", rule="causal"),),
    )
    batch = {"ids": turns, "labels": turns, "steps": turns, "units": torch.tensor([[0, 1]])}
    metrics = {
        "word": lambda m, b: Ratio(0, 6),
        "unit": lambda m, b: Ratio(0, 4),
        "step": lambda m, b: Ratio(0, 10),
        "query": lambda m, b: Ratio(0, 2),
    }
    found = facts(batch, tags, layout=layout, metrics=metrics)
    # after a unit comes `where` or the end, and which one it was tells
    assert of(found.floors, "previous gold token", "word").accuracy == pytest.approx(5 / 6)
    merged = of(found.floors, "previous gold token, units as one class", "word")
    assert merged.accuracy == pytest.approx(4 / 6)
    assert of(found.floors, "previous gold token", "unit").accuracy == pytest.approx(3 / 4)
    assert of(found.floors, "same position of the previous target", "step").accuracy == 4 / 10
    (said,) = found.unjudged
    assert said.startswith("floors of `query` are not judged: it counts 2, and the labels are 10")


@pytest.mark.parametrize("kind", ["class", "value"])
def test_labels_that_contradict_each_other(kind: str) -> None:
    x = torch.tensor([0, 0, 1, 2])
    if kind == "class":
        batch = {"ids": x, "labels": torch.tensor([1, 2, 0, 0]), "noise": torch.arange(4)}
        found = facts(batch, tags, metrics={"tag": right})
        best = of(found.ceilings, CONFLICT, "tag")
        assert (best.accuracy, best.samples, best.count) == (0.75, (0, 1), 1)
        assert best.loss == pytest.approx(2 * math.log(2) / 4)
        assert Ceiling.from_json(best.as_json()) == best
        return
    batch = {"ids": x, "y": torch.tensor([[1.0], [3.0], [0.0], [0.0]])}
    found = facts(batch, lambda m, b: F.mse_loss(m(b["ids"]), b["y"]), Table(1))
    assert of(found.ceilings, CONFLICT, "y").loss == pytest.approx(0.5)


def test_equal_prefixes_of_a_language_model_are_no_conflict_of_labels() -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["ids"])[:, :-1]
        return F.cross_entropy(scores.flatten(0, 1), batch["ids"][:, 1:].flatten())

    found = facts({"ids": torch.tensor([[1, 2, 3], [1, 3, 2]])}, loss)
    (best,) = found.ceilings
    assert (best.name, best.accuracy) == (PREFIX, 0.75)
    assert facts({"ids": torch.tensor([[1, 2, 3], [2, 3, 2]])}, loss).ceilings == ()


@pytest.mark.parametrize("style", [None, torch.tensor([0, 0]), torch.tensor([[0, 3, 1, 1]] * 2)])
def test_masks_positions_and_a_class_name_no_sample_of_a_language_model(
    style: Tensor | None,
) -> None:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        added = batch["position_ids"] + batch["style"].reshape(2, -1).sum(1, keepdim=True)
        scores = model(batch["input_ids"]) * batch["attention_mask"][..., None] + added[..., None]
        wanted = batch["labels"][:, 1:].flatten()
        return F.cross_entropy(scores[:, :-1].flatten(0, 1) * (1 + added.sum()), wanted)

    ids, mask = torch.tensor([[1, 2, 3], [1, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = {"position_ids": torch.arange(3).repeat(2, 1), "input_ids": ids}
    batch |= {"attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    (best,) = facts({**batch, "style": torch.zeros(2) if style is None else style}, loss).ceilings
    text = style is not None and style.ndim > 1  # a text could tell them apart, and does not
    assert (best.name, best.accuracy) == (CONFLICT if text else PREFIX, pytest.approx(2 / 3))


def test_what_is_counted_and_never_scored() -> None:
    labels = torch.tensor([[1, -100], [2, 0]])
    batch = {"ids": torch.tensor([[1, 2], [3, 4]]), "labels": labels}
    found = facts(batch, tags, metrics={"tag": lambda m, b: Ratio(0, 4)})
    assert of(found.ceilings, UNSCORED, "tag").accuracy == 0.75
    masked = Layout(
        labels=(Labels("labels", "scores", mask="there"),),
        masks=(Mask("there", hides=("labels",)),),
    )
    there = {"there": torch.tensor([[1, 1], [1, 0]])}
    found = facts(batch | there, tags, layout=masked, metrics={"tag": lambda m, b: Ratio(0, 3)})
    assert of(found.ceilings, UNREACHABLE, "tag").accuracy == pytest.approx(2 / 3)
    empty = {
        "ids": torch.tensor([[1, 2, 5], [3, 4, 5]]),
        "labels": torch.tensor([[-100, -100, -100], [2, 0, 1]]),
    }
    found = facts(empty, tags, metrics={"row": lambda m, b: Ratio(0, 2)})
    assert of(found.ceilings, EMPTY, "row").samples == (0,)


def test_smoothed_labels_leave_a_loss() -> None:
    batch = {"ids": torch.arange(4), "labels": torch.tensor([0, 1, 2, 3])}
    found = facts(
        batch, lambda m, b: F.cross_entropy(m(b["ids"]), b["labels"], label_smoothing=0.1)
    )
    soft = of(found.ceilings, SOFT, "labels")
    assert soft.exact
    assert soft.loss == pytest.approx(-(0.925 * math.log(0.925) + 0.075 * math.log(0.025)))


def test_labels_that_cannot_be_read_are_said_to_be_so() -> None:
    found = facts({"ids": torch.arange(4)}, lambda m, b: m(b["ids"]).square().mean())
    assert found.floors == ()
    (said,) = found.unjudged
    assert said.startswith("floors are not judged: the labels cannot be read from the batch")


def test_labels_of_batches_with_one_sample_each_are_laid_out_as_those_of_the_others() -> None:
    rows = [[1, 2, 3], [1, 2, 3]], [[4, 5, 6, 7]], [[8, 9]]
    batches = [
        {"ids": torch.tensor(each), "kind": torch.tensor(kind), "y": torch.tensor(label)}
        for each, kind, label in zip(rows, ([0, 1], [3], [1]), ([0, 3], [3], [1]), strict=True)
    ]
    subject = Subject(
        Table(4),
        batches,
        lambda m, b: F.cross_entropy(m(b["ids"]).mean(1), b["y"]),
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
    )
    looker = Looker(subject, batches, {})
    (target,) = looker.targets.found
    assert target.key == "y"
    assert all(each.by_sample for each in target.pieces)
    conflict = of(looker.facts().ceilings, CONFLICT, "y")
    assert (conflict.samples, conflict.count) == ((0, 1), 1)
    blind = Blind.of(subject, batches)
    assert torch.equal(blind.shuffled(1, 0)["ids"], batches[1]["ids"])
