"""Of samples that contradict each other, what would tell them apart is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.experiment import Experiment
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

CHANCE = torch.Generator().manual_seed(0)
QUESTION = torch.randn(4, 6, generator=CHANCE)[torch.arange(32) % 4]
PLACE = torch.randint(2, 30, (8, 5), generator=CHANCE)[torch.arange(32) // 4]
LABELS = (torch.arange(32) % 4 + torch.arange(32) // 4) % 3


def found(**more: Tensor) -> Finding:
    """What is said of a model that reads the question alone."""
    seed_everything(0)
    subject = Subject(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)),
        [{"question": QUESTION, **more, "labels": LABELS}],
        lambda model, batch: F.cross_entropy(model(batch["question"]), batch["labels"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    (told,) = check(subject, chosen(only=["LBL006"])).findings
    assert told.verdict is Verdict.WARN
    return told


def test_a_key_that_nobody_reads_and_that_tells_them_apart_is_named() -> None:
    told = found(context=PLACE)
    assert "nobody reads `context`, which tells all of them apart" in told.message
    assert told.fix.startswith("Let the model read `context`")


@pytest.mark.parametrize(
    "more",
    [
        {"index": torch.arange(32)},
        {"group": torch.arange(32) // 16},
        {"finer": LABELS * 2 + torch.arange(32) % 2},
        {"context": torch.ones(32, 5)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_numbers_them_repeats_the_label_or_does_not_tell_them_apart_is_not(
    more: dict[str, Tensor],
) -> None:
    assert "nobody reads" not in found(**more).message


class Slow(nn.Module):
    """Its first class wins whatever comes in, as an untrained head's may."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.of_kind, self.of_signal = nn.Embedding(4, 16), nn.Linear(6, 16)
        self.head = nn.Linear(16, 3)
        nn.init.normal_(self.head.weight, std=1e-3)
        self.head.bias.data = torch.tensor([1.0, 0.0, 0.0])

    def forward(self, kind: Tensor, signal: Tensor) -> Tensor:
        seen = self.of_kind(kind) + self.of_signal(signal) * self.reads
        logits: Tensor = self.head(seen.tanh())
        return logits


@pytest.mark.parametrize("reads", [True, False])
def test_what_moves_the_loss_and_not_the_likeliest_class_is_read(reads: bool) -> None:
    seed_everything(0)
    batch = {"kind": torch.arange(32) % 4, "signal": torch.randn(32, 6), "labels": LABELS}
    subject = Subject(
        Slow(reads),
        [batch],
        lambda model, batch: F.cross_entropy(
            model(batch["kind"], batch["signal"]), batch["labels"]
        ),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=lambda model, batch: model(batch["kind"], batch["signal"]).argmax(-1),
    )
    experiment = Experiment.of(subject)
    assert experiment.targets == ("labels",)
    assert [each.code for each in check(subject, chosen(only=["LBL006"])).findings] == (
        [] if reads else ["LBL006"]
    )


class Goes(nn.Module):
    """Reads a number of each sample, and what it kept of the batch before."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(1, 8), nn.Linear(8, 3)
        self.keeps = keeps
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        begins = float(x[0]) > 99
        hidden = self.cell(x, None if begins else self.hidden)
        self.hidden = hidden.detach() if self.keeps else None
        logits: Tensor = self.head(hidden)
        return logits


@pytest.mark.parametrize("keeps", [True, False])
def test_nothing_contradicts_where_a_batch_goes_on_from_the_one_before(keeps: bool) -> None:
    seed_everything(0)
    batches = [
        {"x": (torch.arange(8) % 2).float()[:, None], "labels": torch.randint(0, 3, (8,))}
        for _ in range(4)
    ]
    batches[0]["x"][0] = 100.0  # the first of its sequences
    batches[1]["x"] = 1 - batches[1]["x"]
    subject = Subject(
        Goes(keeps),
        batches,
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["labels"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=lambda model, batch: model(batch["x"]),
    )
    found = check(subject, chosen(only=["LBL006"])).findings
    assert [each.verdict for each in found] == ([] if keeps else [Verdict.WARN])


@pytest.mark.parametrize("category", [True, False])
def test_one_category_a_sample_has_several_labels_by_its_nature(category: bool) -> None:
    seed_everything(0)
    table = nn.Embedding(4, 8) if category else nn.Linear(1, 8)
    x = torch.arange(32) % 4 if category else torch.arange(32).float()[:, None] % 4
    subject = Subject(
        nn.Sequential(table, nn.Tanh(), nn.Linear(8, 3)),
        [{"x": x, "labels": LABELS}],
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["labels"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    (told,) = check(subject, chosen(only=["LBL006"])).findings
    assert told.verdict is (Verdict.NOTE if category else Verdict.WARN)


@pytest.mark.parametrize("valued", [True, False])
def test_an_action_whose_value_is_held_against_a_return_is_no_label(valued: bool) -> None:
    seed_everything(0)
    reward = torch.randn(32)

    def of_value(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        value = model(batch["question"]).gather(1, batch["action"][:, None])[:, 0]
        return F.smooth_l1_loss(value, batch["reward"])

    def of_class(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        lost = F.cross_entropy(model(batch["question"]), batch["action"], reduction="none")
        return (lost * batch["reward"].abs()).mean()

    subject = Subject(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)),
        [{"question": QUESTION, "action": LABELS, "reward": reward}],
        of_value if valued else of_class,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=lambda model, batch: model(batch["question"]),
    )
    told = [each.code for each in check(subject, chosen(only=["LBL006"])).findings]
    assert told == ([] if valued else ["LBL006"])
