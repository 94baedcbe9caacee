from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probes import Layout, Mask, Subject
from probes.attention import AttentionMap, attention_maps, fold, write_attention
from probes.record import Recorder
from probes.run import Run

PADDED = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def recomputed(mha: nn.MultiheadAttention, x: Tensor, hide: Tensor | None) -> Tensor:
    """The weights by the definition of multi-head attention."""
    q, k, _ = F.linear(x, mha.in_proj_weight, mha.in_proj_bias).chunk(3, -1)
    n, t, width = q.shape
    per_head = width // mha.num_heads
    q = q.view(n, t, mha.num_heads, per_head).transpose(1, 2)  # (sample, head, token, feature)
    k = k.view(n, t, mha.num_heads, per_head).transpose(1, 2)  # (sample, head, token, feature)
    scores = q @ k.transpose(-1, -2) / per_head**0.5
    if hide is not None:
        scores = scores.masked_fill(hide[:, None, None], -torch.inf)
    return scores.softmax(-1)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_multihead_attention_with_and_without_its_own_weights(
    need_weights: bool, padded: bool
) -> None:
    mha, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 5, 8)
    hide = PADDED if padded else None
    [found] = attention_maps(
        mha, lambda: mha(x, x, x, need_weights=need_weights, key_padding_mask=hide)
    )
    torch.testing.assert_close(found.weights, recomputed(mha, x, hide), atol=1e-6, rtol=0)
    assert found.site == "model"
    expected = PADDED if padded else torch.zeros_like(PADDED)
    assert torch.equal(found.masked_keys, expected)
    assert not found.masked_rows.any()


def test_encoder_layers_whose_fast_path_shows_nothing() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(3, 5, 8)
    found = attention_maps(encoder, lambda: encoder(x))
    assert [(each.site, each.layer) for each in found] == [
        ("layers.0.self_attn", 0),
        ("layers.1.self_attn", 1),
    ]
    first = encoder.layers[0].self_attn
    torch.testing.assert_close(found[0].weights, recomputed(first, x, None), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_transformers_models(kernel: str) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=8, attn_implementation=kernel,
    )  # fmt: skip
    bert = BertModel(config)
    ids, mask = torch.randint(0, 20, (3, 5)), (~PADDED).long()
    found = attention_maps(bert, lambda: bert(ids, attention_mask=mask))
    assert [each.site for each in found] == [
        "encoder.layer.0.attention.self",
        "encoder.layer.1.attention.self",
    ]
    bert.set_attn_implementation("eager")
    bert.eval()
    own = bert(ids, attention_mask=mask, output_attentions=True).attentions
    for each, expected in zip(found, own, strict=True):
        torch.testing.assert_close(each.weights, expected.detach(), atol=1e-6, rtol=0)
        assert torch.equal(each.masked_keys, PADDED)


class ByHand(nn.Module):
    """Attention as people write it, with its weights kept for comparison."""

    def __init__(self, how: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.how = how
        self.drop = nn.Dropout(0.5)
        self.kept: Tensor | None = None

    def forward(self, query: Tensor, values: Tensor) -> Tensor:
        out, self.kept = self.how(query, values)
        return self.drop(out)


def by_matmul(query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ values.transpose(-1, -2)).softmax(-1)
    return F.dropout(weights, 0.5, training=False) @ values, weights


def by_einsum(query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.einsum("nqd,nkd->nqk", query, values).softmax(-1)
    return torch.einsum("nqk,nkd->nqd", weights, values), weights


def by_turned_around(query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = (values @ query.transpose(-1, -2)).softmax(1)  # (sample, key, query)
    return values.transpose(1, 2) @ weights, weights.transpose(1, 2)


def by_sum(query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = (values * query[:, :1]).sum(-1).softmax(-1)  # (sample, key)
    return (weights.unsqueeze(-1) * values).sum(1), weights[:, None]


def by_masking_late(query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ values.transpose(-1, -2)).softmax(-1)
    weights = weights * (~PADDED[:, None]).float()
    return weights.to(values.dtype) @ values, weights


def of_one_query(query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    weights = (values @ query[:, 0, :, None]).squeeze(-1).softmax(-1)  # (sample, key)
    return torch.bmm(weights.unsqueeze(1), values).squeeze(1), weights[:, None]


@pytest.mark.parametrize(
    "how", [by_matmul, by_einsum, by_turned_around, by_sum, by_masking_late, of_one_query]
)
def test_attention_by_hand(how: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    model = nn.ModuleDict({"attend": ByHand(how)})
    query, values = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    [found] = attention_maps(model, lambda: model["attend"](query, values))
    assert found.site == "attend"
    kept = model["attend"].kept
    assert isinstance(kept, Tensor)
    torch.testing.assert_close(found.weights[:, 0], kept, atol=1e-6, rtol=0)


def test_a_softmax_that_weighs_nothing_is_no_attention() -> None:
    head = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.ReLU())
    assert attention_maps(head, lambda: head(torch.randn(3, 4)).log().sum()) == []


def test_rows_with_every_key_masked_are_told() -> None:
    hide = torch.tensor([[True, True, True], [False, False, True]])

    def attend() -> Tensor:
        x = torch.randn(2, 1, 3, 4)
        return F.scaled_dot_product_attention(x, x, x, attn_mask=~hide[:, None, None])

    [found] = attention_maps(nn.Identity(), attend)
    assert found.masked_rows.tolist() == [[True] * 3, [False] * 3]
    assert found.masked_keys.tolist() == hide.tolist()


def test_calls_of_one_site_are_counted() -> None:
    model = nn.ModuleDict({"attend": ByHand(of_one_query)})
    query, values = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    found = attention_maps(model, lambda: [model["attend"](query, values) for _ in range(3)])
    assert [(each.layer, each.call) for each in found] == [(0, 0), (0, 1), (0, 2)]


def test_nothing_is_changed_by_looking() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(5), nn.MultiheadAttention(8, 2))
    model[1].eval()

    def run() -> None:
        x = model[1](model[0](torch.randn(3, 5, 8)))
        model[2](x, x, x)
        random.random()
        np.random.rand()

    before = [each.training for each in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    fast = torch.backends.mha.get_fastpath_enabled()
    [found] = attention_maps(model, run)
    assert not found.weights.requires_grad
    assert [each.training for each in model.modules()] == before
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(draws[0], torch.get_rng_state())
    assert draws[1] == random.getstate()
    assert (draws[2] == np.random.get_state()[1]).all()  # type: ignore[index]
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_modes_come_back_after_an_exception() -> None:
    model = nn.Dropout().train()

    def run() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        attention_maps(model, run)
    assert model.training


@pytest.mark.parametrize(
    ("shape", "heads", "operand", "expected"),
    [
        ((2, 3, 4, 5), 3, (6, 4), (2, 3, 4, 5)),
        ((6, 4, 5), 3, (6, 4), (2, 3, 4, 5)),
        ((7, 4, 5), 3, (7, 4), (7, 1, 4, 5)),
        ((2, 3, 5), 3, (6, 1), (2, 3, 1, 5)),
        ((2, 5), 1, (2, 1), (2, 1, 1, 5)),
        ((2, 5), 1, None, (2, 1, 1, 5)),
        ((4, 5), 1, (1, 4), (1, 1, 4, 5)),
        ((5,), 1, (1, 1), (1, 1, 1, 5)),
    ],
)
def test_folding(shape: Any, heads: int, operand: Any, expected: Any) -> None:
    weights = torch.randn(shape)
    folded = fold(weights, heads, operand)
    assert folded.shape == expected
    assert torch.equal(folded.reshape(-1), weights.reshape(-1))


class Decoder(nn.Module):
    """Every turn's steps look at the units, one step a call; the utterance at itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.units = nn.Embedding(9, 8), nn.Embedding(9, 8)
        self.read = nn.MultiheadAttention(8, 2, batch_first=True)
        self.attend = ByHand(of_one_query)
        self.out = nn.Linear(8, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        said = self.tokens(batch["ids"])
        read = self.read(said, said, said, key_padding_mask=batch["ids"] == 0)[0]
        units = self.units(batch["unit_ids"])
        steps = self.tokens(batch["sql"])  # (sample, turn, time, feature)
        looks = [
            self.attend(steps[:, turn, time, None] + read[:, :1], units)
            for turn in range(steps.shape[1])
            for time in range(steps.shape[2])
        ]
        return self.out(torch.stack(looks, 1)).squeeze(-1)


WORDS = ["<pad>", "how", "many", "singers", "are", "there", "old", "young", "?"]
UNITS = ["<pad>", "*", "singer.*", "singer.name", "singer.age", "song.*", "song.name", "a", "b"]


def decoder_subject() -> Subject:
    batch = {
        "ids": torch.tensor([[1, 2, 3, 8, 0], [4, 5, 0, 0, 0]]),
        "unit_ids": torch.tensor([[1, 2, 3, 4], [1, 5, 6, 0]]),
        "sql": torch.randint(1, 9, (2, 3, 2)),
    }
    return Subject(
        Decoder(),
        [batch],
        lambda model, each: model(each).square().mean(),
        lambda model: torch.optim.SGD(model.parameters(), 0.1),
        describe=lambda each, sample: f"interaction {sample}",
        layout=Layout(
            axes={
                "ids": ("sample", "token"),
                "unit_ids": ("sample", "unit"),
                "sql": ("sample", "turn", "time"),
            },
            masks=(Mask("ids", ("ids",), means="id"), Mask("unit_ids", ("unit_ids",), means="id")),
            names={"ids": WORDS, "unit_ids": lambda unit: UNITS[unit], "sql": WORDS},
        ),
    )


def test_maps_are_written_with_their_names(tmp_path: Path) -> None:
    subject = decoder_subject()
    recorder = Recorder(tmp_path / "run")
    [batch] = subject.batches
    assert write_attention(recorder, subject, subject.model, batch) == 8
    run = Run(tmp_path / "run")
    arrays = [run.array(name) for name in run.arrays]
    read = arrays[0]
    assert read.axes == ("head", "token", "token")
    assert read.values.shape == (2, 5, 5)
    assert (read.about["site"], read.about["sample_name"]) == ("read", "interaction 0")
    assert read.about["keys"] == ["how", "many", "singers", "?", "<pad>"]
    assert read.about["padding"] == read.about["hidden"] == [False] * 4 + [True]
    second = arrays[-1]
    assert second.axes == ("head", "time", "unit")
    assert (second.about["sample"], second.about["row"]) == (1, "turn 2")
    assert second.about["keys"] == ["*", "song.*", "song.name", "<pad>"]
    assert second.about["padding"] == [False, False, False, True]
    assert second.about["hidden"] == [False] * 4  # the model masks no unit
    assert second.about["queries"] == [WORDS[each] for each in batch["sql"][1, 2]]
    np.testing.assert_allclose(second.values.sum(-1), 1, atol=1e-6)


def test_what_is_asked_for_is_written_and_no_more(tmp_path: Path) -> None:
    subject = decoder_subject()
    recorder = Recorder(tmp_path / "run")
    [batch] = subject.batches
    assert write_attention(recorder, subject, subject.model, batch, [1], [0], [1]) == 1
    run = Run(tmp_path / "run")
    array = run.array("attention-000")
    assert array.labels["head"] == ["1"]
    whole: list[AttentionMap] = attention_maps(subject.model, lambda: subject.model(batch))
    np.testing.assert_allclose(array.values, whole[0].weights[1, 1:], atol=1e-6)


def test_a_turn_that_is_not_there_has_no_map(tmp_path: Path) -> None:
    subject = decoder_subject()
    [batch] = subject.batches
    batch["turn_mask"] = torch.tensor([[True, True, False], [True, True, True]])
    layout = subject.layout
    assert layout is not None
    turns = Mask("turn_mask", ("sql",), axis="turn")
    subject = replace(subject, layout=replace(layout, masks=(*layout.masks, turns)))
    recorder = Recorder(tmp_path / "run")
    write_attention(recorder, subject, subject.model, batch, layers=[1])
    run = Run(tmp_path / "run")
    about = [run.array(name).about for name in run.arrays]
    assert [(each["sample"], each["row"]) for each in about] == [
        (0, "turn 0"),
        (0, "turn 1"),
        (1, "turn 0"),
        (1, "turn 1"),
        (1, "turn 2"),
    ]


def test_padding_is_guessed_and_said(tmp_path: Path) -> None:
    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    batch = {"x": torch.randn(3, 5, 8), "attention_mask": (~PADDED).long()}

    def loss(model: nn.Module, each: dict[str, Tensor]) -> Tensor:
        x = each["x"]
        out: Tensor = model(x, x, x, key_padding_mask=each["attention_mask"] == 0)[0]
        return out.sum()

    subject = Subject(mha, [batch], loss, lambda model: torch.optim.SGD(model.parameters()))
    recorder = Recorder(tmp_path / "run")
    write_attention(recorder, subject, mha, batch)
    run = Run(tmp_path / "run")
    padding = [run.array(name).about["padding"] for name in run.arrays]
    assert padding == PADDED.tolist()
    assert any("attention_mask" in line for line in run.facts["settings"]["attention"]["guessed"])


@pytest.mark.parametrize(
    ("means", "leaf"),
    [
        ("keep", (~PADDED).long()),
        ("hide", PADDED),
        ("length", (~PADDED).sum(1)),
        ("id", None),
    ],
)
def test_every_kind_of_mask_marks_the_padding(tmp_path: Path, means: Any, leaf: Any) -> None:
    ids = torch.arange(1, 16).view(3, 5).masked_fill(PADDED, 0)  # (sample, token)
    key, batch = ("ids", {"ids": ids}) if leaf is None else ("m", {"ids": ids, "m": leaf})
    embed, mha = nn.Embedding(16, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def loss(model: nn.Module, each: dict[str, Tensor]) -> Tensor:
        x = embed(each["ids"])
        out: Tensor = model(x, x, x)[0]
        return out.sum()

    mask = Mask(key, ("ids",), means=means, axis=1 if means == "length" else "token")
    layout = Layout(axes={"ids": ("sample", "token"), "m": ("sample",)}, masks=(mask,))
    subject = Subject(
        mha, [batch], loss, lambda model: torch.optim.SGD(model.parameters()), layout=layout
    )
    write_attention(Recorder(tmp_path / "run"), subject, mha, batch)
    run = Run(tmp_path / "run")
    assert [run.array(name).about["padding"] for name in run.arrays] == PADDED.tolist()
