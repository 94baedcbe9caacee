from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model import cached
from model.cached import Cached, key
from model.config import Config
from model.encoder import Encoder
from model.faults import Faults
from model.network import build
from model.parser import Parser
from model.read import Corpus, Interaction
from probes.errors import RequestError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHYNAN_FEATURES", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
@pytest.mark.parametrize("pieces", [None, 16])  # 16: units are split from utterances, and these
def test_a_cached_encoder_gives_what_the_encoder_gives(
    sessions: list[Interaction], small: Any, kind: str, pieces: int | None
) -> None:
    plain, kept = (
        small(model=kind, bert_frozen=True, max_pieces=pieces, cached=each)
        for each in (False, True)
    )
    with torch.no_grad():
        want, found = (model(model.collate(sessions))["scores"] for model in (plain, kept))
    torch.testing.assert_close(found, want, atol=0.02, rtol=0.01)  # half precision
    assert not torch.equal(found, want)


def calls(encoder: Encoder) -> list[int]:
    """How many inputs the encoder was given, call by call, from now on."""
    seen: list[int] = []
    encoder.bert.register_forward_hook(lambda _, __, out: seen.append(len(out[0])))
    return seen


def test_every_input_is_encoded_once(
    sessions: list[Interaction], small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "AT_ONCE", 300)
    model = small(bert_frozen=True, cached=True)
    seen, heard = calls(model.encoder), []
    turns = sum(len(each.turns) for each in sessions)
    assert model.collate.prepare(sessions, heard.append) == turns + len(sessions)  # and pre-turns
    assert len(heard) > 1
    assert heard[-1] == sum(seen) == turns + len(sessions)
    model.collate(sessions)
    again = small(bert_frozen=True, cached=True)
    more = calls(again.encoder)
    assert again.collate.prepare(sessions) == 0
    again.collate(sessions)
    assert more == []


def test_an_interrupted_cache_is_completed(
    sessions: list[Interaction], small: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "AT_ONCE", 100)
    monkeypatch.setattr(cached, "CHUNK", 1)

    def stop(done: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    model = small(bert_frozen=True, cached=True)
    with pytest.raises(KeyboardInterrupt):
        model.collate.prepare(sessions, stop)
    [path] = folder.glob("*/rows.f16")
    path.write_bytes(path.read_bytes()[:-1])
    again = small(bert_frozen=True, cached=True)
    everything = sum(len(each.turns) for each in sessions) + len(sessions)
    assert 0 < again.collate.prepare(sessions) < everything
    completed = path.read_bytes()
    for each in path.parent.iterdir():
        each.unlink()
    assert small(bert_frozen=True, cached=True).collate.prepare(sessions) == everything
    assert path.read_bytes() == completed


def test_the_key_is_of_the_weights_and_the_code(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = small(bert_frozen=True).encoder
    first = key(encoder)
    assert first == key(small(bert_frozen=True).encoder)
    monkeypatch.setattr(cached, "VERSION", cached.VERSION + 1)
    assert key(encoder) != first
    monkeypatch.undo()
    next(encoder.bert.parameters()).data[0, 0] += 1
    assert key(encoder) != first


def test_cached(small: Any) -> None:
    assert isinstance(small(bert_frozen=True, cached=True).collate.cached, Cached)
    assert small(bert_frozen=True, cached=False).collate.cached is None


def test_what_no_cache_can_hold_gets_a_sentence(corpus: Corpus) -> None:
    with pytest.raises(RequestError, match="`cached` is true, `bert_frozen` is false"):
        Config(cached=True)
    with pytest.raises(RequestError, match="`pooling` is sum: a cache holds"):
        Config(cached=True, bert_frozen=True, pooling="sum")
    config = Config(cached=True, bert_frozen=True)
    with pytest.raises(RequestError, match="`cached` is true and `misaligned` planted"):
        build(config, corpus, Faults(misaligned=1))


def test_everything_but_the_encoder_learns(sessions: list[Interaction], small: Any) -> None:
    model: Parser = small(bert_frozen=True, cached=True).train()
    model(model.collate(sessions))["log_probs"].exp().sum().backward()
    assert model.schema.transform.weight.grad is not None
    assert all(each.grad is None for each in model.encoder.parameters())
