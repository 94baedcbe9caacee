"""The models on which the cost is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes.subject import Batch, Subject, load_subject

SPECIMEN = "model.subject:hierarchical"
SAMPLES, TOKENS, STEPS = 8, 64, 20
LABELS = 100  # classes that a decoder step chooses from


@dataclass(frozen=True, slots=True)
class Workload:
    """A model that is trained for the measurement.

    name: how it is asked for. what: what it is, in words. make: builds it, seeded.
    """

    name: str
    what: str
    make: Callable[[], Subject]


class Decoder(nn.Module):
    """A BERT of MiniLM's size, and an LSTM that reads its tokens in 20 steps."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.words = nn.Embedding(LABELS, 384)
        self.cell = nn.LSTMCell(2 * 384, 384)
        self.head = nn.Linear(2 * 384, LABELS)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Logits of every decoder step, fed with the labels before: (sample, step, label)."""
        tokens = self.bert(input_ids=ids).last_hidden_state  # (B, T, 384)
        state = tokens[:, 0], torch.zeros_like(tokens[:, 0])  # (B, 384) each
        context, logits = state[0], []
        for word in self.words(labels).unbind(1):  # (B, 384) a step
            state = self.cell(torch.cat([word, context], -1), state)
            weights = torch.einsum("bh,bth->bt", state[0], tokens).softmax(-1)  # (B, T)
            context = torch.einsum("bt,bth->bh", weights, tokens)
            logits.append(self.head(torch.cat([state[0], context], -1)))
        return torch.stack(logits, 1)


def minilm() -> Subject:
    """The BERT with its decoder, on random tokens, trained by AdamW."""
    torch.manual_seed(0)
    batch = {
        "ids": torch.randint(1000, 30000, (SAMPLES, TOKENS)),
        "labels": torch.randint(LABELS, (SAMPLES, STEPS)),
    }
    return Subject(
        Decoder(),
        [batch],
        lambda model, batch: nn.functional.cross_entropy(
            model(**batch).flatten(0, 1), batch["labels"].flatten()
        ),
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-5),
        clip_norm=1.0,
    )


def layers() -> Subject:
    """Twelve times a linear layer of 256 and a ReLU, on 32 samples, trained by AdamW."""
    torch.manual_seed(0)
    pairs = [(nn.Linear(256, 256), nn.ReLU()) for _ in range(12)]
    batch = {"x": torch.randn(32, 256), "y": torch.randn(32, 256)}
    return Subject(
        nn.Sequential(*[layer for pair in pairs for layer in pair]),
        [batch],
        _distance,
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-5),
    )


def _distance(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"]), batch["y"])


def specimen() -> Subject:
    """The text-to-SQL model of a clone of whynan. Raises RequestError where there is none."""
    return load_subject(SPECIMEN, 0)


WORKLOADS = (
    Workload("minilm", "BERT of 6 layers, 384 wide, 8 x 64 tokens; 20 LSTM steps", minilm),
    Workload("specimen", f"the specimen, {SPECIMEN}", specimen),
    Workload("layers", "worst case: 12 x (Linear(256) + ReLU), batch 32", layers),
)
