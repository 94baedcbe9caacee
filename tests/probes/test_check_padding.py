"""Padding whose own content says that it is padding: what leaks, and what is a contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import chosen
from probes.checks import RULES
from probes.experiment import Experiment
from probes.finding import Verdict, judge
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Pool = Callable[[Tensor, Tensor], Tensor]
LENGTHS = torch.tensor([9, 8, 7, 5, 4, 3])


def said(
    model: nn.Module, batch: Batch, given: tuple[str, ...], codes: list[str]
) -> dict[str, str | None]:
    seed_everything(0)
    subject = Subject(
        model,
        [batch],
        lambda model, b: F.cross_entropy(model(*(b[key] for key in given)), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(*(b[key] for key in given)),
    )
    found = judge(chosen(codes, known=RULES), Experiment.of(subject)).findings
    return {f.code: f.site for f in found if f.verdict.rank > Verdict.NOTE.rank}


class ByIds(nn.Module):
    """Its mask is taken from the ids; the lengths tell it where to read."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.trunk = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 3)
        self.pool = pool

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        hidden = self.trunk(self.embedding(ids), src_key_padding_mask=ids == 0)
        logits: Tensor = self.head(self.pool(hidden, lengths))
        return logits


class ByFrames(nn.Module):
    """Its mask is taken from frames that are all zero."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.into, self.head, self.pool = nn.Linear(4, 16), nn.Linear(16, 3), pool

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        there = (frames.abs().sum(-1) > 0)[..., None]
        hidden = torch.tanh(self.into(frames))
        logits: Tensor = self.head(self.pool(hidden * there, lengths))
        return logits


def last(hidden: Tensor, lengths: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), lengths - 1]


def every(hidden: Tensor, lengths: Tensor) -> Tensor:
    return hidden.mean(1)


def total(hidden: Tensor, lengths: Tensor) -> Tensor:
    return hidden.sum(1) / lengths[:, None]


def padded(floats: bool = False) -> Batch:
    chance = torch.Generator().manual_seed(0)
    keep = torch.arange(9) < LENGTHS[:, None]
    ids = torch.randint(3, 40, (6, 9), generator=chance) * keep
    frames = torch.randn(6, 9, 4, generator=chance) * keep[..., None]
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    read = {"frames": frames} if floats else {"ids": ids}
    return read | {"lengths": LENGTHS, "labels": labels}


@pytest.mark.parametrize(("pool", "codes"), [(last, []), (every, ["MSK001"])])
def test_a_mask_taken_from_the_ids_is_a_contract_and_what_leaks_beside_it_is_told(
    pool: Pool, codes: list[str]
) -> None:
    found = said(ByIds(pool), padded(), ("ids", "lengths"), ["MSK001", "MSK006"])
    assert sorted(found) == codes


@pytest.mark.parametrize(("leaks", "codes"), [(False, []), (True, ["MSK001"])])
def test_a_mask_taken_from_the_frames_is_a_contract_as_well(leaks: bool, codes: list[str]) -> None:
    class Frames(ByFrames):
        def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
            logits = super().forward(frames, lengths)
            return logits + self.head(self.into(frames).mean(1)) if leaks else logits

    found = said(Frames(total), padded(floats=True), ("frames", "lengths"), ["MSK001"])
    assert sorted(found) == codes


@pytest.mark.parametrize(("inverted", "codes"), [(False, []), (True, ["MSK006"])])
def test_a_mask_taken_from_the_ids_may_be_inverted(inverted: bool, codes: list[str]) -> None:
    class Turned(ByIds):
        def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
            hidden = self.trunk(self.embedding(ids), src_key_padding_mask=(ids == 0) != inverted)
            logits: Tensor = self.head(hidden[:, 0])
            return logits

    batch = padded() | {"lengths": torch.zeros(6)}
    batch["ids"] = torch.where(torch.arange(9) == 8, 0, batch["ids"])
    assert sorted(said(Turned(last), batch, ("ids", "lengths"), ["MSK006"])) == codes


class Frames(nn.Module):
    """Speech whose frames are made to have variance 1, over what is visible or over all."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.head, self.over_all = nn.Linear(4, 3), over_all

    def forward(self, frames: Tensor, n_frames: Tensor) -> Tensor:
        there = (torch.arange(frames.shape[1]) < n_frames[:, None])[..., None]
        count = n_frames[:, None, None]
        centred = frames - (frames * there).sum(1, keepdim=True) / count
        counted = centred if self.over_all else centred * there
        whole = centred / (counted.square().sum(1, keepdim=True) / count).sqrt()
        logits: Tensor = self.head((whole.tanh() * there).sum(1) / n_frames[:, None])
        return logits


@pytest.mark.parametrize(("over_all", "codes"), [(False, []), (True, ["MSK001"])])
def test_a_variance_that_counts_padded_frames_leaks(over_all: bool, codes: list[str]) -> None:
    batch = padded(floats=True)
    batch["frames"] = batch["frames"] + 2 * (batch["frames"] != 0)
    batch["n_frames"] = batch.pop("lengths")
    assert sorted(said(Frames(over_all), batch, ("frames", "n_frames"), ["MSK001"])) == codes


class Cloud(nn.Module):
    """The nearest points of each point, among the real ones or among all."""

    def __init__(self, among_all: bool) -> None:
        super().__init__()
        self.into, self.head, self.among_all = nn.Linear(4, 16), nn.Linear(16, 3), among_all

    def forward(self, points: Tensor, count: Tensor) -> Tensor:
        there = torch.arange(points.shape[1]) < count[:, None]
        far = torch.cdist(points, points)
        if not self.among_all:
            far = far.masked_fill(~there[:, None], float("inf"))
        near = far.topk(2, largest=False).indices
        beside = points.gather(1, near[..., 1:].expand(-1, -1, 4))
        hidden = torch.relu(self.into(beside - points)).masked_fill(~there[..., None], 0)
        logits: Tensor = self.head(hidden.amax(1))
        return logits


@pytest.mark.parametrize(("among_all", "codes"), [(False, []), (True, ["MSK001"])])
def test_neighbours_that_are_padding_leak(among_all: bool, codes: list[str]) -> None:
    batch = padded(floats=True)
    batch = {"points": batch["frames"], "count": LENGTHS, "labels": batch["labels"]}
    assert sorted(said(Cloud(among_all), batch, ("points", "count"), ["MSK001"])) == codes


class Spoken(nn.Module):
    """A convolution over frames that end in zeros, as it would put beyond the end itself."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.front, self.head = nn.Conv1d(4, 16, 3, padding=1), nn.Linear(16, 3)
        self.over_all = over_all

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        hidden = torch.relu(self.front(frames.mT)).mT
        there = (torch.arange(frames.shape[1]) < lengths[:, None])[..., None]
        pooled = hidden.mean(1) if self.over_all else (hidden * there).sum(1) / lengths[:, None]
        logits: Tensor = self.head(pooled)
        return logits


@pytest.mark.parametrize(("over_all", "codes"), [(False, []), (True, ["MSK001"])])
def test_zeros_that_end_a_row_leak_only_where_more_of_them_do(
    over_all: bool, codes: list[str]
) -> None:
    found = said(Spoken(over_all), padded(floats=True), ("frames", "lengths"), ["MSK001", "MSK004"])
    assert sorted(found) == codes


class Told(nn.Module):
    """Reads regions by cross attention, under a mask that has a name of its own."""

    def __init__(self, inverted: bool) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(4, 16), nn.Linear(16, 3)
        self.read = nn.MultiheadAttention(16, 2, batch_first=True)
        self.query, self.inverted = nn.Parameter(torch.randn(1, 1, 16)), inverted

    def forward(self, frames: Tensor, there: Tensor) -> Tensor:
        hidden = self.into(frames)
        asks = self.query.expand(len(frames), -1, -1)
        mask = there if self.inverted else ~there
        read, _ = self.read(asks, hidden, hidden, key_padding_mask=mask)
        logits: Tensor = self.head(read.squeeze(1))
        return logits


@pytest.mark.parametrize(("inverted", "codes"), [(False, []), (True, ["MSK006"])])
def test_an_attention_that_reads_padding_alone_is_told_by_what_it_blocks(
    inverted: bool, codes: list[str]
) -> None:
    batch = padded(floats=True)
    batch["there"] = torch.arange(9) < LENGTHS[:, None]
    batch["frames"][0, 8], batch["there"][0, 8] = 0, False
    found = said(Told(inverted), batch, ("frames", "there"), ["MSK001", "MSK004", "MSK006"])
    assert sorted(found) == codes


def test_a_key_that_happens_to_be_as_long_is_not_padded_with_the_others() -> None:
    class Both(ByFrames):
        def forward(self, frames: Tensor, lengths: Tensor, sound: Tensor | None = None) -> Tensor:
            assert sound is not None
            logits = super().forward(frames, lengths)
            return logits + sound.square().mean((1, 2))[:, None]

    batch = padded(floats=True) | {"sound": torch.randn(6, 5, 9)}
    assert said(Both(total), batch, ("frames", "lengths", "sound"), ["MSK004"]) == {}


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(40, 16), nn.Linear(16, 40)
        self.lstm = nn.LSTM(16, 16, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.embedding(ids))[0])
        return logits


def answers(end: int | None, for_outputs: bool) -> Batch:
    """A question, a 3, its answer, and an end; the mask marks what is to be learned."""
    chance = torch.Generator().manual_seed(0)
    ids, mask = torch.zeros(2, 6, 15, dtype=torch.long)
    for row in range(6):
        words = torch.randint(4, 40, (2 + row % 5,), generator=chance)
        text = [*words.tolist(), 3, *words.flip(0).tolist(), *([end] if end else [])]
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, len(words) + 1 - for_outputs : len(text) - (for_outputs and bool(end))] = 1
    return {"ids": ids, "mask_of_answers": mask}


@pytest.mark.parametrize(
    ("end", "for_outputs", "labels_too", "codes"),
    [
        (2, False, False, ["MSK013"]),
        (2, False, True, []),
        (2, True, False, []),  # made for outputs: the padding is never scored
        (None, True, False, []),  # and texts that end with what they are padded with
        (None, False, False, ["MSK013"]),  # by the separator
    ],
)
def test_a_mask_that_marks_ids_is_to_be_shifted_with_the_labels(
    end: int | None, for_outputs: bool, labels_too: bool, codes: list[str]
) -> None:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["ids"])[:, :-1].transpose(1, 2)
        mask = b["mask_of_answers"][:, 1:] if labels_too else b["mask_of_answers"][:, :-1]
        each = F.cross_entropy(scores, b["ids"][:, 1:], reduction="none")
        return (each * mask).sum() / mask.sum()

    seed_everything(0)
    subject = Subject(
        Writer(),
        [answers(end, for_outputs)],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(b["ids"]),
    )
    checks = chosen(["MSK013", "MSK001"], known=RULES)
    found = judge(checks, Experiment.of(subject)).findings
    assert [f.code for f in found if f.verdict.rank > Verdict.NOTE.rank] == codes


def test_padding_on_the_left_is_no_separator() -> None:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["ids"])[:, :-1].transpose(1, 2)
        each = F.cross_entropy(scores, b["ids"][:, 1:], reduction="none")
        weights = b["seen"][:, 1:] * b["seen"][:, :-1]
        return (each * weights).sum() / weights.sum()

    seed_everything(0)
    seen = (torch.arange(12) >= torch.tensor([0, 2, 3, 5, 6, 4])[:, None]).long()
    subject = Subject(
        Writer(),
        [{"ids": torch.randint(1, 40, (6, 12)) * seen, "seen": seen}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(b["ids"]),
    )
    assert not judge(chosen(["MSK013"], known=RULES), Experiment.of(subject)).findings


@pytest.mark.parametrize(("beyond", "codes"), [(0, []), (1, ["MSK001"])])
def test_the_first_padding_may_be_the_end_that_a_text_is_asked_for(
    beyond: int, codes: list[str]
) -> None:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        scores = model(b["ids"])[:, :-1].transpose(1, 2)
        each = F.cross_entropy(scores, b["ids"][:, 1:], reduction="none")
        places = torch.arange(each.shape[1])
        return (each * (places < b["lengths"][:, None] + beyond)).mean()

    seed_everything(0)
    subject = Subject(
        Writer(),
        [{key: value for key, value in padded().items() if key != "labels"}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(b["ids"]),
    )
    found = judge(chosen(["MSK001"], known=RULES), Experiment.of(subject)).findings
    assert [f.code for f in found if f.verdict.rank > Verdict.NOTE.rank] == codes


class Routed(nn.Module):
    """Gives what its router says of every token, the rows joined, beside what is pooled."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.embedding, self.router = nn.Embedding(50, 16), nn.Linear(16, 4)
        self.head, self.over_all = nn.Linear(16, 3), over_all

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embedding(ids)
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        flat = hidden.flatten(0, 1)
        if self.over_all:
            flat = flat / len(flat)
        return {"logits": self.head(pooled), "router": self.router(flat)}


@pytest.mark.parametrize("over_all", [False, True])
def test_an_output_of_joined_rows_is_cut_row_by_row(over_all: bool) -> None:
    seed_everything(0)
    keep = torch.arange(9) < LENGTHS[:, None]
    ids = torch.where(keep, torch.randint(1, 50, (6, 9)), 0)
    batch = {"ids": ids, "mask": keep.long(), "labels": torch.arange(6) % 3}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["ids"], b["mask"])["logits"], b["labels"])

    subject = Subject(
        Routed(over_all),
        [batch],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(b["ids"], b["mask"]),
    )
    found = judge(chosen(["MSK004"], known=RULES), Experiment.of(subject)).findings
    assert [f.code for f in found] == ["MSK004"] * over_all


class Normed(nn.Module):
    """Frames that a norm of each sample's whole takes, padding and all, with channels before."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.norm, self.head = nn.Conv1d(4, 16, 1), Whole(), nn.Linear(16, 3)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        there = (torch.arange(frames.shape[1]) < lengths[:, None])[:, None]
        hidden = self.norm(self.front(frames.mT)) * there
        logits: Tensor = self.head(hidden.sum(2) / lengths[:, None])
        return logits


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[1:])


def test_a_leak_is_placed_in_a_module_with_channels_before_places() -> None:
    found = said(Normed(), padded(floats=True), ("frames", "lengths"), ["MSK004"])
    assert found == {"MSK004": "norm"}
