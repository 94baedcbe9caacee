"""The truth table of the scenarios: every culprit named, no healthy infinity blamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch.origin.find import Origin, find_origin
from probes.layout import Layout
from probes.replay import Snapshot


def line(mark: str) -> str:
    """The address of the line of this file that is marked so."""
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def origin_of(
    model: nn.Module, loss: Callable[[], Tensor], batch: Any = None, layout: Layout | None = None
) -> Origin | None:
    """The origin of one step; what a replay may not change is as it was."""

    def step() -> Tensor:
        value = loss()
        value.backward()
        return value

    snapshot = Snapshot.take(model)
    before = [p.detach().clone() for p in model.parameters()]
    random = torch.get_rng_state()
    found = find_origin(model, step, snapshot, batch=batch, layout=layout)
    assert all(_same(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert found is None or found.repeats == "to the bit"
    return found


def _same(one: Tensor, two: Tensor) -> bool:
    return bool(((one == two) | (one.isnan() & two.isnan())).all())


def must(found: Origin | None) -> Origin:
    assert found is not None
    return found


# --- a: log of a softmax that underflows ---------------------------------------------------------


class Tagger(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.head, self.scale = nn.Linear(8, 5), scale

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.emb(ids))[0][:, -1]) * self.scale


class Nested(nn.Module):
    """The same two levels down."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"tagger": Tagger(scale)})

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner["tagger"](ids)


def log_of(p: Tensor) -> Tensor:
    return p.log()  # HERE log


class LossInside(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.tagger = Tagger(scale)

    def forward(self, ids: Tensor) -> Tensor:
        return log_of(self.tagger(ids).softmax(-1))


@pytest.mark.parametrize("make", [Tagger, Nested])
@pytest.mark.parametrize(("scale", "sick"), [(4000.0, True), (1.0, False)])
def test_log_of_a_softmax(make: type[nn.Module], scale: float, sick: bool) -> None:
    torch.manual_seed(0)
    model, ids = make(scale), torch.randint(0, 20, (4, 6))
    best = model(ids).argmax(-1)

    def loss() -> Tensor:
        return -log_of(model(ids).softmax(-1)).gather(1, best[:, None]).mean()

    found = origin_of(model, loss, {"ids": ids, "y": best})
    assert (found is not None) == sick
    if found is not None:
        assert (found.op, found.node, found.phase) == ("aten.div", "LogBackward0", "backward")
        assert (found.source, found.site) == (line("log"), "<loss>")
        assert found.total == 20
        assert 0 < found.count < 20
        assert found.where["sample"] in range(4)
        assert found.samples is not None
        assert "<loss>" not in found.symptoms
        assert len(found.symptoms) == 7
        assert found.largest_finite_input == 1
        assert found.hidden is not None, "the forward pass gave -inf, which gather left out"
        assert (found.hidden.op, found.hidden.phase) == ("aten.log", "forward")


def test_loss_code_inside_the_model_has_its_module() -> None:
    torch.manual_seed(0)
    model, ids = LossInside(4000.0), torch.randint(0, 20, (4, 6))
    best = model(ids).argmax(-1)
    found = must(origin_of(model, lambda: -model(ids).gather(1, best[:, None]).mean()))
    assert (found.node, found.source) == ("LogBackward0", line("log"))
    assert found.site == "model"


# --- b: a fully masked row -----------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        scores = scores.masked_fill(~keep[:, None], -torch.inf)
        weights = scores.softmax(-1)  # HERE softmax
        return self.norm(weights @ self.v(x))


def keep_mask(empty: bool) -> Tensor:
    keep = torch.ones(5, 7, dtype=torch.bool)
    keep[:, 5:] = False
    if empty:
        keep[3] = False
    return keep


@pytest.mark.parametrize("empty", [True, False])
def test_fully_masked_row(empty: bool) -> None:
    torch.manual_seed(0)
    model, x, keep = (
        nn.ModuleDict({"attention": Attention()}),
        torch.randn(5, 7, 8),
        keep_mask(empty),
    )
    found = origin_of(model, lambda: model["attention"](x, keep).square().mean(), (x, keep))
    assert (found is not None) == empty
    if found is not None:
        assert (found.op, found.phase) == ("aten._softmax", "forward")
        assert (found.source, found.site) == (line("softmax"), "attention")
        assert found.where["sample"] == 3
        assert found.samples == (3,)
        assert found.held.nan == 7 * 7


def test_a_healthy_mask_beside_another_fault_is_not_blamed() -> None:
    torch.manual_seed(0)
    model, x, keep = Attention(), torch.randn(5, 7, 8), keep_mask(False)

    def loss() -> Tensor:
        out = model(x, keep)
        return (out - out).sum().sqrt() + out.sum()  # HERE zero

    found = must(origin_of(model, loss, (x, keep)))
    assert (found.node, found.source) == ("SqrtBackward0", line("zero"))


def additive(keep: Tensor) -> Tensor:
    return torch.zeros(5, 7).masked_fill(~keep, -torch.inf)


def by_where(keep: Tensor) -> Tensor:
    return torch.where(keep, 0.0, -torch.inf)


def by_log(keep: Tensor) -> Tensor:
    return keep.float().log()


def by_index(keep: Tensor) -> Tensor:
    mask = torch.zeros(5, 7)
    mask[~keep] = -torch.inf
    return mask


def by_triangle(keep: Tensor) -> Tensor:
    return torch.full((5, 7), -torch.inf).masked_fill(keep, 0)


@pytest.mark.parametrize("make", [additive, by_where, by_log, by_index, by_triangle])
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("empty", [True, False])
def test_no_way_to_write_a_mask_is_blamed(
    make: Callable[[Tensor], Tensor], within: bool, empty: bool
) -> None:
    torch.manual_seed(0)
    model, x, keep = nn.Linear(8, 7), torch.randn(5, 8), keep_mask(empty)
    outside = make(keep)

    def loss() -> Tensor:
        scores = model(x) + (make(keep) if within else outside)
        return scores.softmax(-1).square().sum()

    found = origin_of(model, loss, {"x": x, "keep": keep} | ({} if within else {"m": outside}))
    assert (found is not None) == empty
    if found is not None:
        assert found.op == "aten._softmax"
        assert found.samples == (3,)


# --- sqrt: an infinite derivative before the NaN -------------------------------------------------


@pytest.mark.parametrize("sick", [True, False])
def test_square_root_at_zero(sick: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.randn(5, 4)

    def loss() -> Tensor:
        h = model(x)
        difference = h[:, None] - h[None]
        squared = difference.pow(2).sum(-1) + (0 if sick else 1e-6)
        distance = torch.sqrt(squared)  # HERE sqrt
        return distance.mean()

    found = origin_of(model, loss, x)
    assert (found is not None) == sick
    if found is not None:
        assert (found.op, found.node) == ("aten.div", "SqrtBackward0")
        assert (found.phase, found.source) == ("backward", line("sqrt"))
        assert found.held.inf == 5
        assert found.hidden is None, "the forward pass was finite everywhere"
        assert found.held.nan == 0
        assert [event.node for event in found.path][:2] == ["SqrtBackward0", "PowBackward0"]
        assert any(event.node == "PowBackward0" and event.nan_born for event in found.path)


# --- e: a poisoned row of an embedding -----------------------------------------------------------


def test_a_poisoned_row_of_an_embedding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("tagger", Tagger(1.0))
    ids = torch.randint(2, 20, (4, 6))
    ids[2, 3] = ids[3, 1] = 1
    with torch.no_grad():
        model.tagger.emb.weight[1] = torch.nan
    layout = Layout(names={"ids": [f"w{i}" for i in range(20)]})
    found = must(origin_of(model, lambda: model(ids).square().mean(), {"ids": ids}, layout))
    assert (found.given, found.name) == ("parameter", "tagger.emb.weight")
    assert (found.op, found.site, found.phase) == ("aten.embedding", "tagger.emb", "forward")
    assert found.where["row"] == 1
    assert (found.where["sample"], found.where["token"]) == (2, 3)
    assert (found.token_id, found.token) == (1, "w1")
    assert found.samples == (2, 3)
    assert found.symptoms[0] == "<loss>"


def test_a_poisoned_row_that_nobody_reads_is_still_told() -> None:
    model = nn.Embedding(5, 2)
    with torch.no_grad():
        model.weight[4] = torch.nan
    found = must(origin_of(model, lambda: model(torch.tensor([1, 2])).sum()))
    assert (found.given, found.name, found.where["row"]) == ("parameter", "weight", 4)
    assert found.symptoms == ("weight",)


def test_nan_in_the_batch() -> None:
    model, x = nn.Linear(3, 2), torch.ones(4, 3)
    x[2, 1] = torch.nan
    found = must(origin_of(model, lambda: model(x).sum(), {"inputs": {"x": x}}))
    assert (found.given, found.name, found.site) == ("batch", "inputs.x", "<data>")
    assert found.phase == "data"
    assert found.samples == (2,)
    assert found.where == {"sample": 2, "feature": 1}


def test_a_poisoned_buffer() -> None:
    model = nn.BatchNorm1d(2).eval()
    assert model.running_mean is not None
    model.running_mean[1] = torch.inf
    found = must(origin_of(model, lambda: model(torch.ones(3, 2)).sum()))
    assert (found.given, found.name) == ("buffer", "running_mean")
    assert found.where["row"] == 1


def test_uninitialised_memory() -> None:
    model = nn.Linear(2, 2)

    def loss() -> Tensor:
        memory = torch.empty(3, 2)  # HERE empty
        memory[:2] = 1.0
        memory.data.view(-1).numpy()[4:] = float("nan")  # what happened to lie there
        return model(memory).sum()

    found = must(origin_of(model, loss))
    assert (found.given, found.source) == ("uninitialised", line("empty"))
    assert found.op == "aten.empty"


def test_a_healthy_step_has_no_origin_and_a_story_is_told() -> None:
    model, x = nn.Linear(3, 2), torch.ones(4, 3)
    assert origin_of(model, lambda: F.log_softmax(model(x), -1).mean()) is None
    found = must(origin_of(model, lambda: (model(x) - 1e9).log().sum()))
    told = found.story()
    assert told[0].startswith("forward: aten.log in <loss> at ")
    assert told[-1] == "not finite: <loss>"


# --- models of other people ----------------------------------------------------------------------


def test_a_tied_table_is_told_by_the_one_who_reads_it_first() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0
    )
    model, ids = GPT2LMHeadModel(config), torch.randint(2, 30, (3, 7))
    ids[1, 4] = 1

    def loss() -> Tensor:
        logits = model(input_ids=ids).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    assert origin_of(model, loss, {"ids": ids}) is None
    with torch.no_grad():
        model.transformer.wte.weight[1] = torch.nan
    found = must(origin_of(model, loss, {"ids": ids}))
    assert (found.given, found.name) == ("parameter", "transformer.wte.weight")
    assert (found.op, found.site) == ("aten.embedding", "transformer.wte")
    assert (found.where["row"], found.where["sample"], found.where["token"]) == (1, 1, 4)
    assert found.samples == (1,)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_a_birth_within_attention_of_transformers(kind: str) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 30}
    config = BertConfig(num_attention_heads=2, attn_implementation=kind, **sizes)
    model, ids = BertModel(config, add_pooling_layer=False), torch.randint(0, 30, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.int64)
    mask[1, 4:] = 0

    def loss() -> Tensor:
        return model(ids, attention_mask=mask).last_hidden_state.square().mean()

    batch = {"ids": ids, "attention_mask": mask}
    assert origin_of(model, loss, batch) is None
    with torch.no_grad():
        model.encoder.layer[1].attention.self.query.weight.fill_(1e38)
    found = must(origin_of(model, loss, batch))
    assert found.phase == "forward"
    assert found.site == "encoder.layer.1.attention.self.query"
    assert found.op == "aten.addmm"
