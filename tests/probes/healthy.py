"""Healthy subjects that look suspicious: no check may say more than a note of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import Optimizer

from probes import Layout, Subject

Batch = dict[str, Tensor]


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def tokens(rows: int = 6, length: int = 9, words: int = 50) -> Batch:
    chance = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 8, 7, 5, 4, 3])[:rows]
    keep = torch.arange(length) < lengths[:, None]
    ids = torch.randint(3, words, (rows, length), generator=chance).masked_fill(~keep, 0)
    return {"input_ids": ids, "attention_mask": keep.long()}


def small(**kind: Any) -> dict[str, Any]:
    return {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2} | kind


def bert() -> Subject:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**small(hidden_size=16, intermediate_size=32, num_labels=3))
    batch = tokens() | {"labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    return Subject(
        BertForSequenceClassification(config), [batch], lambda model, b: model(**b).loss, adam
    )


def gpt2() -> Subject:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    batch = tokens()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return Subject(
        GPT2LMHeadModel(config),
        [batch | {"labels": labels}],
        lambda model, b: model(**b).loss,
        adam,
    )


def t5() -> Subject:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    labels = tokens(length=5)
    batch = tokens() | {
        "labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    }
    return Subject(
        T5ForConditionalGeneration(config), [batch], lambda model, b: model(**b).loss, adam
    )


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 8, 2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True)
        out, _ = self.lstm(packed)
        padded, _ = pad_packed_sequence(out, batch_first=True)
        logits: Tensor = self.head(padded)
        return logits


def packed() -> Subject:
    found = tokens()
    lengths = found["attention_mask"].sum(1)
    labels = (found["input_ids"] % 3).masked_fill(found["attention_mask"] == 0, -100)
    return Subject(
        Packed(),
        [{"ids": found["input_ids"], "lengths": lengths, "labels": labels}],
        lambda model, b: F.cross_entropy(
            model(b["ids"], b["lengths"]).flatten(0, 1), b["labels"].flatten()
        ),
        adam,
    )


def images() -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 8, 8, generator=chance), torch.tensor([0, 1, 2, 3] * 2)


def convolution() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )  # fmt: skip


def batch_norm() -> Subject:
    return Subject(
        convolution(), [images()], lambda model, b: F.cross_entropy(model(b[0]), b[1]), adam
    )


class Tied(nn.Module):
    """A causal language model of its own making, whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        ahead = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        logits: Tensor = self.head(self.layers(self.embedding(ids), mask=ahead, is_causal=True))
        return logits


def tied() -> Subject:
    ids = tokens()["input_ids"]
    return Subject(
        Tied(),
        [{"ids": ids[:, :-1], "targets": ids[:, 1:]}],
        lambda model, b: F.cross_entropy(
            model(b["ids"]).flatten(0, 1), b["targets"].flatten(), ignore_index=0
        ),
        adam,
    )


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = convolution()[:5].requires_grad_(False)
        self.head = nn.Linear(8 * 36, 4)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.encoder(x)
        logits: Tensor = self.head(hidden)
        return logits


def frozen() -> Subject:
    return Subject(
        Frozen().train(),
        [images()],
        lambda model, b: F.cross_entropy(model(b[0]), b[1]),
        adam,
        layout=Layout(frozen=("encoder.",)),
    )


def autocast() -> Subject:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            value: Tensor = model(**b).loss
        return value

    whole = bert()
    return Subject(whole.model, whole.batches, loss, adam)


def accumulation() -> Subject:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: Optimizer) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for x, y in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
            loss = F.cross_entropy(model(x), y) / 4
            loss.backward()
            total += loss.detach()
        optimizer.step()
        return total

    whole = batch_norm()
    return Subject(whole.model, whole.batches, whole.loss, adam, train_step=step)


def accumulation_over_calls() -> Subject:
    calls = iter(range(10**9))

    def step(model: nn.Module, batch: tuple[Tensor, Tensor], optimizer: Optimizer) -> Tensor:
        loss = F.cross_entropy(model(batch[0]), batch[1]) / 2
        loss.backward()
        if next(calls) % 2:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    whole = batch_norm()
    return Subject(whole.model, whole.batches, whole.loss, adam, train_step=step)


class Pooler(nn.Module):
    """A tagger on a BERT whose pooler nobody reads."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        self.bert = BertModel(BertConfig(**small(hidden_size=16, intermediate_size=32)))
        self.head = nn.Linear(16, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.bert(ids, attention_mask=mask).last_hidden_state)
        return logits


def tagger() -> Subject:
    batch = tokens()
    tags = (batch["input_ids"] % 2).masked_fill(batch["attention_mask"] == 0, -100)
    return Subject(
        Pooler(),
        [{"ids": batch["input_ids"], "mask": batch["attention_mask"], "tags": tags}],
        lambda model, b: F.cross_entropy(
            model(b["ids"], b["mask"]).flatten(0, 1), b["tags"].flatten()
        ),
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4),
    )


class Contrast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(5, 8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.normalize(self.one(a), dim=-1) @ F.normalize(self.two(b), dim=-1).T * 10


def contrastive() -> Subject:
    chance = torch.Generator().manual_seed(0)
    batch = {"a": torch.randn(7, 6, generator=chance), "b": torch.randn(7, 5, generator=chance)}

    def loss(model: nn.Module, b: Batch) -> Tensor:
        return F.cross_entropy(model(b["a"], b["b"]), torch.arange(len(b["a"])))

    return Subject(Contrast(), [batch], loss, adam)


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 8), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (log_var / 2).exp()
        return {"image": self.decoder(z), "mean": mean, "log_var": log_var}


def variational() -> Subject:
    def loss(model: nn.Module, b: Batch) -> Tensor:
        out = model(b["x"])
        divergence = (out["mean"].square() + out["log_var"].exp() - 1 - out["log_var"]).mean()
        return F.mse_loss(out["image"], b["x"]) + divergence / 2

    chance = torch.Generator().manual_seed(0)
    return Subject(Variational(), [{"x": torch.randn(6, 12, generator=chance)}], loss, adam)


def regression() -> Subject:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(16, 5, generator=chance)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
    return Subject(
        model,
        [(x, x.sum(1))],
        lambda model, b: F.mse_loss(model(b[0]).squeeze(-1), b[1]),
        adam,
        schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1.0, s / 10)),
    )


HEALTHY: dict[str, Callable[[], Subject]] = {
    each.__name__: each
    for each in (
        bert, gpt2, t5, packed, batch_norm, tied, frozen, autocast, accumulation,
        accumulation_over_calls, tagger, contrastive, variational, regression,
    )
}  # fmt: skip
