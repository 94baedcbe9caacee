"""Watching changes not one bit of real architectures: dropout on, gradients clipped, 20 steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import SGD, AdamW, Optimizer

from model.subject import hierarchical
from nan_watch import NanWatch
from probes import Subject, Verdict
from probes.batch import take
from probes.loop import Loop
from probes.seeding import seed_everything

STEPS = 20


def specimen() -> Subject:
    whole = hierarchical()
    few = [take(batch, range(3), whole.layout) for batch in whole.batches][:2]
    return Subject(whole.model, few, whole.loss, whole.optimizer, clip_norm=1.0)


def bert() -> Subject:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=60, intermediate_size=64, num_labels=3, **sizes)
    ids = torch.randint(1, 60, (2, 6, 10))
    ids[:, 3:, 7:] = 0
    batches = [{"ids": each, "labels": torch.randint(0, 3, (6,))} for each in ids]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        ids = batch["ids"]
        return model(ids, attention_mask=(ids > 0).long(), labels=batch["labels"]).loss

    return Subject(BertForSequenceClassification(config), batches, loss, adamw, clip_norm=1.0)


def gpt2() -> Subject:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=60, **sizes, **ends))
    batches = [{"ids": each} for each in torch.randint(1, 60, (2, 6, 12))]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(input_ids=batch["ids"], labels=batch["ids"]).loss

    return Subject(model, batches, loss, adamw, clip_norm=0.5)


def conv_with_batch_norm() -> Subject:
    def block(width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Dropout(0.1)]

    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
    model = nn.Sequential(*block(3), *block(16), *pool)

    def sgd(model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)

    return Subject(model, of_classes(torch.randn(2, 8, 3, 8, 8)), of_class, sgd)


class Packed(nn.Module):
    """A bidirectional LSTM over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 8, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x)) % x.shape[1] + 1
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        out: Tensor = self.head(hidden.mean(1))
        return out


def packed_lstm() -> Subject:
    return Subject(Packed(), of_classes(torch.randn(2, 8, 6, 5)), of_class, adamw, clip_norm=1.0)


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), 1e-3)


def of_classes(xs: Tensor) -> list[dict[str, Tensor]]:
    return [{"x": x, "labels": torch.randint(0, 3, (len(x),))} for x in xs]


def of_class(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"])


def end(make: Callable[[], Subject], how: str) -> tuple[list[Tensor], list[float]]:
    """Parameters, buffers, optimizer state and random state at the end; and every loss."""
    seed_everything(0)
    subject = make()
    loop, batches = Loop(subject), list(subject.batches)
    turns = [batches[step % len(batches)] for step in range(STEPS)]
    if how == "bare":
        losses = [loop.step(batch).item() for batch in turns]
    else:
        with NanWatch(loop.model, loop.optimizer, out=Path(how)) as watch:
            losses = [told(watch, loop, batch, how).item() for batch in turns]
        assert [f for f in watch.findings if f.verdict.rank > Verdict.NOTE.rank] == []
    state = [v for each in loop.optimizer.state.values() for v in each.values() if v is not None]
    return [*loop.model.state_dict().values(), *state, torch.get_rng_state()], losses


def told(watch: NanWatch, loop: Loop, batch: Any, how: str) -> Tensor:
    return watch.step(lambda: loop.step(batch, watch)) if how == "step" else loop.step(batch, watch)


@pytest.mark.parametrize(
    "make",
    [specimen, bert, gpt2, conv_with_batch_norm, packed_lstm],
    ids=lambda make: make.__name__,
)
def test_not_one_bit_is_changed(make: Callable[[], Subject]) -> None:
    bare, losses = end(make, "bare")
    assert len(set(losses)) > STEPS / 2  # it does train
    for how in ("loop", "step"):
        seen, same_losses = end(make, how)
        assert same_losses == losses
        assert len(bare) == len(seen)
        assert all(map(torch.equal, bare, seen))
