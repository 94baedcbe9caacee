"""Beams of transformers' `generate`, whose cache is picked with them, and one that is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel
from transformers.cache_utils import DynamicLayer

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding
from probes.seeding import seed_everything

WORDS, MORE = 23, 6


def gpt() -> nn.Module:
    config = GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return GPT2LMHeadModel(config)


def bart() -> nn.Module:
    config = BartConfig(
        vocab_size=WORDS,
        d_model=32,
        **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
        max_position_embeddings=32,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)


def said(model: nn.Module) -> list[Finding]:
    seed_everything(0)
    for each in model.parameters():
        if each.ndim > 1:
            nn.init.normal_(each, std=0.4)

    def written(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["ids"]
        found: Tensor = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=4,
            max_new_tokens=MORE,
            min_new_tokens=MORE,
        )
        return found

    subject = Subject(
        model,
        [{"ids": torch.randint(3, WORDS, (4, 6))}],
        lambda model, batch: model(input_ids=batch["ids"], labels=batch["ids"]).loss,
        lambda model: torch.optim.Adam(model.parameters()),
        predict=written,
    )
    return list(check(subject, chosen(["STA020"])).findings)


@pytest.mark.parametrize("model", [gpt, bart])
def test_nothing_is_said_of_generate(model: type[nn.Module]) -> None:
    assert said(model()) == []


def test_a_cache_that_stays_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DynamicLayer, "reorder_cache", lambda self, rows: None)
    (finding,) = said(gpt())
    assert finding.site == "transformer.h.0.attn"
    assert "test_unpicked_generate.py" in (finding.source or "")
