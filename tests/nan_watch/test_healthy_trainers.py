"""No health rule cries wolf at a healthy trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nan_watch.rules import RULES
from probes.finding import Verdict, judge

Loss = Callable[[nn.Module, int], Tensor]


@dataclass
class Trainer:
    """A model, its optimizer, and the loss of step i."""

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    steps: int = 60
    clip: float | None = None
    schedule: LambdaLR | None = None


def classes(count: int, width: int = 8) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return torch.randn(count, width, generator=chance), torch.randint(
        0, 3, (count,), generator=chance
    )


def tokens(rows: int, length: int, words: int = 40) -> Tensor:
    """(sample, token) ids from 1; the last third of half of the rows is padding, 0."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(1, words, (rows, length), generator=chance)
    ids[rows // 2 :, 2 * length // 3 :] = 0
    return ids


def mlp(width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


def on_classes(count: int) -> Loss:
    x, y = classes(count)
    return lambda model, i: F.cross_entropy(model(x), y)


def plain() -> Trainer:
    model = mlp()
    return Trainer(model, Adam(model.parameters(), 1e-2), on_classes(64))


def memorised_by_adam() -> Trainer:
    model = mlp(64)
    optimizer = AdamW(model.parameters(), 1e-2)
    return Trainer(model, optimizer, on_classes(5), steps=400, clip=1.0)


def memorised_by_sgd() -> Trainer:
    model = mlp(64)
    return Trainer(model, SGD(model.parameters(), 0.5), on_classes(5), steps=400)


def one_noisy_sample_a_step() -> Trainer:
    model, (x, y) = mlp(), classes(100)
    loss: Loss = lambda model, i: F.cross_entropy(model(x[i % 100][None]), y[i % 100][None])  # noqa: E731
    return Trainer(model, Adam(model.parameters(), 3e-3), loss, steps=200)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(self.emb(ids))[0].mean(1))
        return out


def lstm_with_padding() -> Trainer:
    model, ids, y = Reader(), tokens(16, 12), classes(16)[1]
    loss: Loss = lambda model, i: F.cross_entropy(model(ids), y)  # noqa: E731
    return Trainer(model, Adam(model.parameters(), 5e-3), loss, clip=1.0)


def warm(optimizer: Optimizer, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: min(1.0, step / steps))


def small_bert(**kind: Any) -> Any:
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertConfig(vocab_size=60, intermediate_size=64, num_labels=3, **sizes, **kind)


def bert_from_a_warm_up(frozen: bool = False) -> Trainer:
    from transformers import BertForSequenceClassification

    model, ids, y = BertForSequenceClassification(small_bert()), tokens(8, 12, 60), classes(8)[1]
    if frozen:
        model.bert.requires_grad_(False)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], 5e-4)
    loss: Loss = lambda model, i: model(ids, attention_mask=(ids > 0).long(), labels=y).loss  # noqa: E731
    return Trainer(model, optimizer, loss, clip=1.0, schedule=warm(optimizer, 30))


def bert_frozen() -> Trainer:
    return bert_from_a_warm_up(frozen=True)


class Pooled(nn.Module):
    """A BERT whose own pooler nobody reads."""

    def __init__(self) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel(small_bert())
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.bert(ids).last_hidden_state.mean(1))
        return out


def bert_with_an_unread_pooler() -> Trainer:
    model, ids, y = Pooled(), tokens(8, 12, 60), classes(8)[1]
    loss: Loss = lambda model, i: F.cross_entropy(model(ids), y)  # noqa: E731
    return Trainer(model, AdamW(model.parameters(), 2e-5), loss, clip=1.0)


def gpt2() -> Trainer:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    model, ids = GPT2LMHeadModel(GPT2Config(vocab_size=60, **sizes, **ends)), tokens(6, 12, 60)
    loss: Loss = lambda model, i: model(input_ids=ids, labels=ids).loss  # noqa: E731
    return Trainer(model, AdamW(model.parameters(), 1e-3), loss, clip=1.0)


def conv_with_batch_norm() -> Trainer:
    def block(width: int) -> list[nn.Module]:
        return [nn.Conv2d(width, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]

    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)]
    model = nn.Sequential(*block(3), *block(16), *pool)
    x, y = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), classes(16)[1]
    loss: Loss = lambda model, i: F.cross_entropy(model(x), y)  # noqa: E731
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    return Trainer(model, optimizer, loss)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, 40, bias=False)
        self.out.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(self.gru(self.emb(ids))[0])
        return out


def tied_weights_from_a_warm_up() -> Trainer:
    model, ids = Tied(), tokens(8, 10)
    optimizer = Adam(model.parameters(), 3e-3)

    def loss(model: nn.Module, i: int) -> Tensor:
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    return Trainer(model, optimizer, loss, schedule=warm(optimizer, 40))


class Branches(nn.Module):
    """Residual branches scaled by `scale`, or whose last layer starts at zero."""

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.inp = nn.Linear(8, 32)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
            for _ in range(3)
        )
        gains = [torch.full((32,), scale or 1.0) for _ in range(3)]
        self.gains = nn.ParameterList(gains)
        self.head = nn.Linear(32, 3)
        if scale is None:
            nn.init.zeros_(self.head.weight)
            for branch in self.branches:
                nn.init.zeros_(branch.get_parameter("3.weight"))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inp(x)
        for branch, gain in zip(self.branches, self.gains, strict=True):
            hidden = hidden + gain * branch(hidden)
        out: Tensor = self.head(hidden)
        return out


def layer_scale() -> Trainer:
    model = Branches(1e-6)
    return Trainer(model, AdamW(model.parameters(), 1e-3), on_classes(32), clip=1.0)


def zero_initialised_branches() -> Trainer:
    model = Branches(None)
    return Trainer(model, SGD(model.parameters(), 0.1), on_classes(32))


def large_targets() -> Trainer:
    model, x = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)), classes(64)[0]
    y = 1e4 * torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    loss: Loss = lambda model, i: F.mse_loss(model(x), y)  # noqa: E731
    return Trainer(model, Adam(model.parameters(), 1e-3), loss, clip=1.0)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 32, padding_idx=0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.encoder(self.emb(ids), src_key_padding_mask=ids == 0)
        out: Tensor = self.head(hidden[:, 0])
        return out


def masked_attention() -> Trainer:
    model, ids, y = Masked(), tokens(16, 9), classes(16)[1]
    loss: Loss = lambda model, i: F.cross_entropy(model(ids), y)  # noqa: E731
    return Trainer(model, AdamW(model.parameters(), 1e-3), loss, clip=1.0)


class OneStep(nn.Module):
    """An LSTM over sequences of one token, whose recurrent matrix only sees zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x[:, None])[0][:, -1])
        return out


def sequences_of_one() -> Trainer:
    model = OneStep()
    return Trainer(model, Adam(model.parameters(), 1e-2), on_classes(16))


def only_the_head_is_trained() -> Trainer:
    model = mlp()
    return Trainer(model, Adam(model[4].parameters(), 1e-2), on_classes(16))


def two_optimizers() -> Trainer:
    """The watched optimizer holds one half; another one, which steps in the loss, the other."""
    model = mlp()
    other = SGD(model[4].parameters(), 0.1)
    of_all = on_classes(16)

    def loss(model: nn.Module, i: int) -> Tensor:
        other.step()
        other.zero_grad()
        return of_all(model, i)

    return Trainer(model, SGD(model[:4].parameters(), 0.1), loss)


def a_teacher_by_moving_average() -> Trainer:
    student, teacher = mlp(), mlp()
    teacher.requires_grad_(False)
    both, of_all = nn.ModuleDict({"teacher": teacher, "student": student}), on_classes(16)

    def loss(model: nn.Module, i: int) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return of_all(student, i)

    return Trainer(both, Adam(student.parameters(), 1e-3), loss)


HEALTHY = [
    plain,
    memorised_by_adam,
    memorised_by_sgd,
    one_noisy_sample_a_step,
    lstm_with_padding,
    bert_from_a_warm_up,
    bert_frozen,
    bert_with_an_unread_pooler,
    gpt2,
    conv_with_batch_norm,
    tied_weights_from_a_warm_up,
    layer_scale,
    zero_initialised_branches,
    large_targets,
    masked_attention,
    sequences_of_one,
    only_the_head_is_trained,
    two_optimizers,
    a_teacher_by_moving_average,
]


@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
def test_nothing_above_a_note_is_said_of_a_healthy_trainer(
    make: Callable[[], Trainer], record: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    judgement = judge(RULES, record(tmp_path / "run", **vars(make()), tier="sites"))
    assert len(judgement.findings) + len(judgement.passed) + len(judgement.not_judged) == len(RULES)
    lacking = {"GRD005", "GRD007", "GRD008", "GRD012", "GRD020"}
    assert {each.code for each in judgement.not_judged} <= lacking
    assert [f.message for f in judgement.findings if f.verdict.rank > Verdict.NOTE.rank] == []
