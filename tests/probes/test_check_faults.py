"""Faults that are not cases of their own: what is said of them, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Labels, Layout, Reads, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def said(subject: Subject) -> list[Finding]:
    return [f for f in check(subject).findings if f.verdict.rank > Verdict.NOTE.rank]


def tokens() -> Batch:
    chance = torch.Generator().manual_seed(0)
    keep = torch.arange(9) < torch.tensor([9, 8, 7, 5, 4, 3])[:, None]
    ids = torch.randint(3, 50, (6, 9), generator=chance).masked_fill(~keep, 0)
    return {"input_ids": ids, "attention_mask": keep.long()}


def bert(forget: bool, pool: Callable[[Tensor, Tensor], Tensor]) -> Subject:
    from transformers import BertConfig, BertModel

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(
                vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=32,
            )  # fmt: skip
            self.bert = BertModel(config, add_pooling_layer=False)
            self.head = nn.Linear(16, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            seen = torch.ones_like(mask) if forget else mask
            hidden = self.bert(ids, attention_mask=seen).last_hidden_state
            logits: Tensor = self.head(pool(hidden, mask))
            return logits

    seed_everything(0)
    return Subject(
        Classifier(),
        [tokens() | {"labels": torch.tensor([0, 1, 2, 0, 1, 2])}],
        lambda model, b: F.cross_entropy(model(b["input_ids"], b["attention_mask"]), b["labels"]),
        adam,
    )


def masked(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def summed(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.sum(1)


def largest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.amax(1)


@pytest.mark.parametrize(
    ("forget", "pool", "site"),
    [
        (True, masked, "bert.encoder.layer.0.attention.self"),
        (False, summed, "model"),
        (False, largest, "model"),
    ],
)
def test_padding_that_leaks_is_placed(
    forget: bool, pool: Callable[[Tensor, Tensor], Tensor], site: str
) -> None:
    found = said(bert(forget, pool))
    assert [(f.code, f.site) for f in found] == [("MSK001", site)]
    assert said(bert(False, masked)) == []


class Last(nn.Module):
    """Reads the state after the padding, or at the true end."""

    def __init__(self, at_end: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.at_end = at_end

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        out, (state, _) = self.lstm(self.embedding(ids))
        true = out[torch.arange(len(ids)), lengths - 1]
        logits: Tensor = self.head(true if self.at_end else state[-1])
        return logits


@pytest.mark.parametrize("at_end", [True, False])
def test_a_final_state_that_is_read_after_the_padding_is_found(at_end: bool) -> None:
    seed_everything(0)
    batch = tokens()
    lengths = batch["attention_mask"].sum(1)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    subject = Subject(
        Last(at_end),
        [{"ids": batch["input_ids"], "lengths": lengths, "labels": labels}],
        lambda model, b: F.cross_entropy(model(b["ids"], b["lengths"]), b["labels"]),
        adam,
    )
    assert [f.code for f in said(subject)] == ([] if at_end else ["MSK001", "MSK007"])


def gpt2(labels: Tensor, batch: Batch) -> Subject:
    from transformers import GPT2Config, GPT2LMHeadModel

    seed_everything(0)
    config = GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return Subject(
        GPT2LMHeadModel(config),
        [batch | {"labels": labels}],
        lambda model, b: model(**b).loss,
        adam,
    )


def test_labels_that_are_shifted_twice_are_found_in_a_transformers_model() -> None:
    chance = torch.Generator().manual_seed(1)
    text = torch.stack([torch.randperm(50, generator=chance)[:9] for _ in range(6)])
    whole = {"input_ids": text[:, :8]}
    assert said(gpt2(text[:, :8], whole)) == []
    found = said(gpt2(text[:, 1:], whole))
    assert [(f.code, f.verdict) for f in found] == [("LBL001", Verdict.WARN)]
    assert "2 ahead instead of the next" in found[0].message


def tagger(shift: int) -> Subject:
    seed_everything(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3))
    ids = tokens()["input_ids"]

    def loss(model: nn.Module, b: Batch) -> Tensor:
        logits = model(b["ids"])
        return F.cross_entropy(
            logits[:, : 9 - shift].flatten(0, 1), b["labels"][:, shift:].flatten()
        )

    declared = Layout(labels=(Labels("labels", "output"),))
    return Subject(model, [{"ids": ids, "labels": ids % 3}], loss, adam, layout=declared)


def test_a_shift_that_is_not_the_declared_one_is_a_fault() -> None:
    assert said(tagger(0)) == []
    found = said(tagger(1))
    assert [(f.code, f.verdict) for f in found] == [("LBL001", Verdict.FAIL)]
    assert found[0].evidence[0].value == 1


def classifier(loss: Callable[[Tensor, Tensor], Tensor]) -> Subject:
    seed_everything(0)
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    return Subject(nn.Linear(4, 3), [(x, labels)], lambda model, b: loss(model(b[0]), b[1]), adam)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda s, y: F.cross_entropy(s.softmax(-1), y), "softmax is applied twice"),
        (lambda s, y: F.nll_loss(s.softmax(-1), y), "the log is forgotten"),
        (lambda s, y: F.nll_loss(s, y), "nothing normalises it"),
        (lambda s, y: F.nll_loss(s.log_softmax(-1), y), None),
        (lambda s, y: F.cross_entropy(s.log_softmax(-1), y), None),
        (lambda s, y: F.cross_entropy(s, y, label_smoothing=0.1), None),
        (lambda s, y: F.cross_entropy(s, y, reduction="sum"), None),
    ],
)
def test_a_loss_of_a_wrong_formula_is_told_by_its_value(loss: Any, words: str | None) -> None:
    found = said(classifier(loss))
    told = [f.message for f in found if f.code == "WIR010"]
    assert bool(found) == (words is not None)
    assert {f.code for f in found} <= {"WIR010", "WIR013"}
    assert words is None or words in told[0]


@pytest.mark.parametrize(("size", "told"), [(1.0, True), (1e-8, False)])
def test_outputs_that_are_all_the_same_prove_no_formula(size: float, told: bool) -> None:
    whole = classifier(lambda s, y: F.cross_entropy(s.softmax(-1), y))
    with torch.no_grad():
        for each in whole.model.parameters():
            each.mul_(size)
    shares = replace(whole, predict=lambda model, batch: model(batch[0]).softmax(-1))
    assert ("WIR010" in [each.code for each in said(shares)]) == told


def test_a_number_that_two_losses_share_by_chance_proves_no_formula() -> None:
    seed_everything(0)
    x, other = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    model = nn.Linear(4, 3, bias=False)
    labels = model(x).argmax(1).index_fill(0, torch.tensor([0]), int(model(x)[0].argmin()))

    def apart() -> float:  # from the cross entropy of others, softmax applied twice
        right, twice = F.cross_entropy(model(x), labels), model(x).softmax(-1)
        return (right - F.cross_entropy(twice, other)).item()

    low, high, start = 0.01, 100.0, model.weight.detach().clone()
    for _ in range(40):
        size = (low + high) / 2
        model.weight.data.copy_(size * start)
        low, high = (size, high) if apart() < 0 else (low, size)
    assert abs(apart()) < 1e-5
    whole = Subject(model, [(x, other, labels)], lambda m, b: F.cross_entropy(m(b[0]), b[2]), adam)
    assert "WIR010" not in [each.code for each in said(whole)]


def test_a_parameter_that_is_held_twice_and_one_that_is_missed_are_told() -> None:
    whole = classifier(F.cross_entropy)
    forgotten = replace(
        whole, optimizer=lambda m: torch.optim.SGD([m.get_parameter("weight")], lr=0.1)
    )
    assert [(f.code, f.verdict) for f in said(forgotten)] == [("WIR003", Verdict.WARN)]
    end_alone = replace(
        whole, optimizer=lambda m: torch.optim.SGD([m.get_parameter("bias")], lr=0.1)
    )
    found = said(end_alone)
    assert [(f.code, f.verdict) for f in found] == [("WIR003", Verdict.WARN)]
    assert 'Layout(frozen=("weight",))' in found[0].fix
    assert said(replace(end_alone, layout=Layout(frozen=("weight",)))) == []

    def twice(model: nn.Module) -> torch.optim.Optimizer:
        made = torch.optim.SGD(model.parameters(), lr=0.1)
        made.param_groups[0]["params"].append(model.weight)
        return made

    found = said(replace(whole, optimizer=twice))
    assert ["twice" in f.message for f in found] == [True]


def test_evaluation_mode_that_is_left_on_is_told() -> None:
    def loss(model: nn.Module, b: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(b[0]), b[1])

    whole = replace(
        classifier(F.cross_entropy),
        model=nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
        loss=loss,
    )
    assert said(whole) == []
    whole.model.eval()
    assert [f.code for f in said(whole)] == ["WIR006"]


class Pooled(nn.Module):
    """Units pooled by a mask (sample, unit, token)."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.embedding, self.head, self.by = nn.Embedding(60, 16), nn.Linear(16, 4), by

    def forward(self, ids: Tensor, spans: Tensor) -> Tensor:
        own = spans.roll(self.by, -1).float()
        units = own @ self.embedding(ids) / own.sum(-1, keepdim=True).clamp(min=1)
        kinds: Tensor = self.head(units)
        return kinds


@pytest.mark.parametrize(("by", "declared"), [(0, False), (0, True), (1, False), (1, True)])
def test_units_that_a_mask_of_spans_names_read_their_own_tokens(by: int, declared: bool) -> None:
    chance = torch.Generator().manual_seed(0)
    widths = torch.randint(2, 4, (6, 3), generator=chance)
    starts, at = 1 + widths.cumsum(1) - widths, torch.arange(12)
    named = (at >= starts[..., None]) & (at < (starts + widths)[..., None])
    ids = torch.randint(2, 60, (6, 12), generator=chance)
    seed_everything(0)
    subject = Subject(
        Pooled(by),
        [{"ids": ids, "entity_mask": named, "labels": widths}],
        lambda m, b: F.cross_entropy(m(b["ids"], b["entity_mask"]).mT, b["labels"]),
        adam,
        layout=Layout(reads=(Reads("output", of="ids", rule="span", keys=("entity_mask",)),))
        if declared
        else None,
    )
    found = check(subject, chosen(["IDX001"])).findings
    assert [f.verdict for f in found] == [Verdict.FAIL if declared else Verdict.WARN] * by
    assert all("every unit reads 1 token after its span" in f.message for f in found)


def test_samples_that_are_mixed_by_a_reshape_are_placed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.one(x)
            logits: Tensor = self.two(hidden.T.reshape(len(x), -1))
            return logits

    whole = replace(classifier(F.cross_entropy), model=Mixed())
    found = said(whole)
    assert [(f.code, f.site) for f in found] == [("MSK002", "model"), ("IDX005", "model")]
    assert "before it calls `two`" in found[0].message


def test_an_input_that_is_lost_in_the_model_is_told_of_a_tuple_too() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.ones_like(x))
            return logits

    found = said(replace(classifier(F.cross_entropy), model=Blind()))
    assert [(f.code, f.verdict) for f in found] == [("WIR007", Verdict.FAIL)]


def test_a_head_that_starts_from_zero_is_no_lost_input() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)
    whole = replace(classifier(F.cross_entropy), model=model)
    assert said(whole) == []
    assert any("it can be seen up to `2`" in f.message for f in check(whole).findings)


def test_layers_that_blow_up_what_they_are_given_are_named() -> None:
    whole = classifier(F.cross_entropy)
    deep = nn.Sequential(nn.Linear(4, 64), *(nn.Linear(64, 64) for _ in range(3)), nn.Linear(64, 3))
    for layer in list(deep)[1:4]:
        nn.init.normal_(layer.get_parameter("weight"), std=1.0)
    found = said(replace(whole, model=deep))
    assert [(f.code, f.site) for f in found] == [("WIR010", "1")]
    assert "3 layers make what they are given" in found[0].message
