"""A head that is the same for every sample is told with the line where its input is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.blind_heads import BlindHead, blind_heads
from overfit.curves import Accuracy, Curves
from overfit.floors import PRIOR, Floor
from overfit.look import Look, kept_start
from overfit.rules.head_stuck import HeadStuck
from overfit.trials import Trials
from probes import Ratio, Subject

Batch = dict[str, Tensor]
X = torch.randint(2, 20, (6, 5), generator=torch.Generator().manual_seed(0))
X[:, 0] = 1  # a token that stands in front of every sample


class Two(nn.Module):
    """The first head reads all places, the second one those that it is given."""

    def __init__(self, reads: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.topic, self.lang = nn.Linear(8, 3), nn.Linear(8, 2)
        self.reads = reads

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        seen = self.table(ids)
        return {"topic": self.topic(seen.mean(1)), "lang": self.lang(self.reads(seen))}


def part(name: str) -> Callable[[nn.Module, Batch], Tensor]:
    return lambda model, batch: F.cross_entropy(model(batch["ids"])[name], batch[name])


def right(name: str) -> Callable[[nn.Module, Batch], Ratio]:
    def count(model: nn.Module, batch: Batch) -> Ratio:
        hits = (model(batch["ids"])[name].argmax(-1) == batch[name]).sum()
        return Ratio(hits, len(batch[name]))

    return count


def total(model: nn.Module, batch: Batch) -> Tensor:
    return part("topic")(model, batch) + part("lang")(model, batch)


def subject(reads: Callable[[Tensor], Tensor]) -> Subject:
    torch.manual_seed(0)
    batch = {"ids": X, "topic": torch.arange(6) % 3, "lang": torch.tensor([0, 1, 1, 0, 1, 0])}
    return Subject(
        Two(reads),
        [batch],
        total,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        metrics={"topic_acc": right("topic"), "lang_acc": right("lang")},
    )


def found(one: Subject, began: dict[str, Tensor] | None = None) -> dict[str, str | None]:
    told = blind_heads(one, list(one.batches), began or kept_start(one.model), ["ids"])
    return {each.head: f"{each.op} {(each.source or '').rpartition(':')[2]}" for each in told}


def front(seen: Tensor) -> Tensor:
    return seen[:, 0]  # the same


def line(mark: str) -> int:
    rows = Path(__file__).read_text().splitlines()
    return next(i for i, row in enumerate(rows, 1) if row.endswith(f"# {mark}"))


def test_a_head_that_reads_what_is_the_same_for_every_sample_is_told_with_the_line() -> None:
    one, where = subject(front), f"getitem {line('the same')}"
    with torch.no_grad():  # so that the accuracies differ, by which it is known what they count
        one.model.lang.bias.copy_(torch.tensor([9.0, 0.0]))  # type: ignore[union-attr, operator]
    assert found(one) == {"lang": where, "lang_acc": where}
    named = replace(one, parts={"of_topic": part("topic"), "of_lang": part("lang")})
    assert found(named) == {"lang": where, "lang_acc": where, "of_lang": where}
    assert found(subject(lambda seen: (seen * 0).sum(1))).keys() >= {"lang"}


def test_a_head_that_reads_the_input_is_none() -> None:
    assert found(subject(lambda seen: seen[:, 1])) == {}
    assert found(subject(lambda seen: seen.mean(1).detach())) == {}
    assert found(subject(lambda seen: seen[:1, 1].expand(len(seen), -1))) == {}


def test_one_that_only_starts_or_ends_so_is_none() -> None:
    one = subject(lambda seen: seen[:, 1])
    reads = kept_start(one.model)
    with torch.no_grad():
        one.model.lang.weight.zero_()  # type: ignore[union-attr, operator]
    begins = kept_start(one.model)
    assert found(one, reads) == {}
    one.model.load_state_dict(reads)
    assert found(one, begins) == {}
    assert all(torch.equal(reads[name], v) for name, v in one.model.state_dict().items())


def test_samples_whose_inputs_are_the_same_tell_nothing() -> None:
    one = subject(front)
    batch = {**next(iter(one.batches)), "ids": X[:1].expand(6, -1).clone()}
    assert found(replace(one, batches=[batch])) == {}


def test_the_stuck_head_says_where_its_input_is_lost() -> None:
    steps = tuple(range(9))
    blind = BlindHead("lang_acc", "getitem", None, "train.py:54")
    look = Look(trials=Trials(blind=(blind,)), parts={"lang_acc": {"lang": 0.0}})
    heads = {
        "topic_acc": Accuracy((0, 8), (1.0, 5.0), (5.0, 5.0)),
        "lang_acc": Accuracy((0, 8), (1.0, 2.0), (5.0, 5.0)),
    }
    floors = tuple(Floor(PRIOR, name, accuracy=0.4) for name in heads)
    name, losses = "overfit-5-seed0", (2.0,) * 9
    course = Curves(
        name, 5, 0, 9, "samples", steps, losses, heads, ended="steps", look=look, floors=floors
    )
    (told,) = HeadStuck().judge(course)
    assert (told.site, told.source, told.phase) == ("model", "train.py:54", "forward")
    assert "lost on the way to it at `getitem` at train.py:54" in told.message
    again = Look.from_json(look.as_json())
    assert again.trials.blind == (blind,)
