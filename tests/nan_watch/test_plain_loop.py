"""A loop that hands no step over: the model's part is replayed, what lies outside is said so."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


class Mean(nn.Module):
    """The mean over a length, which may be nothing; dropout, so that randomness counts."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(9, 4), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        total = self.drop(self.embedding(ids)).sum(1)
        return self.head(total / length[:, None])  # HERE mean


class Norm(nn.Module):
    """A norm, whose derivative at zero is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).square().sum(-1).sqrt()  # HERE root


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return (self.inner(x) + hidden).tanh() / x[:, :1]  # HERE cell


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def batch(zero: int | None = None) -> tuple[Tensor, Tensor]:
    length = torch.full((4,), 5.0)
    if zero is not None:
        length[zero] = 0.0
    return torch.arange(20).reshape(4, 5) % 9, length


def one_step(model: nn.Module, *given: Any, loss: Any = torch.sum, **settings: Any) -> NanWatch:
    """A healthy step and then one on what is given, in a plain loop; the watch is left open."""
    optimizer = sgd(model)
    watch = NanWatch(model, optimizer, **settings)
    with watch:
        value = loss(model(*given))
        watch.backward(value)
        optimizer.step()
    return watch


def refused(model: nn.Module, *given: Any, **how: Any) -> Finding:
    with pytest.raises(PoisonedStep) as caught:
        one_step(model, *given, **how)
    return caught.value.finding


def told(finding: Finding, what: str) -> Any:
    return next(each.value for each in finding.evidence if each.what.startswith(what))


def test_a_birth_in_the_models_forward_is_named_with_line_and_sample() -> None:
    torch.manual_seed(0)
    model = Mean()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    finding = refused(model, *batch(zero=2))
    assert (finding.op, finding.source, finding.site) == ("aten.div", line("mean"), "model")
    assert (finding.phase, finding.step, finding.samples) == ("forward", 0, (2,))
    assert told(finding, "the replay repeats") == "to the bit"
    assert any("not finite: <output>" in str(each.value) for each in finding.evidence)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_birth_in_the_models_backward_is_named() -> None:
    torch.manual_seed(0)
    finding = refused(Norm(), torch.ones(3, 4) * torch.tensor([[1.0], [0.0], [2.0]]))
    assert (finding.op, finding.node) == ("aten.div", "SqrtBackward0")
    assert (finding.source, finding.phase, finding.samples) == (line("root"), "backward", (1,))
    assert told(finding, "the replay repeats") == "to the bit"


def test_a_birth_in_the_loss_code_of_a_loop_that_goes_on_is_said_to_lie_outside() -> None:
    def loss(logits: Tensor) -> Tensor:
        return -(logits * 1e4).softmax(-1).log().max(-1).values.mean()

    torch.manual_seed(0)
    watch = one_step(nn.Linear(3, 4), torch.ones(2, 3), loss=loss, on_poison="skip")
    [finding] = watch.findings
    assert (finding.site, finding.phase, finding.op) == ("<loss>", "backward", None)
    assert finding.message.endswith(
        "outside the model; a plain loop's loss code is outside of what can be replayed."
    )
    assert "`watch.step(fn)`, which replays that too" in finding.fix
    assert told(finding, "the model's part, replayed") == "no cause in it"
    nodes = told(finding, "autograd nodes between the loss and the model's output")
    assert (
        nodes
        == "NegBackward0, MeanBackward0, MaxBackward0, LogBackward0, SoftmaxBackward0, "
        + ("MulBackward0")
    )


def test_a_loss_that_is_not_finite_while_the_model_is_lies_outside() -> None:
    model, given = nn.Linear(3, 4), torch.ones(2, 3)
    watch = one_step(model, given, loss=lambda x: x.sum() * float("inf"), on_poison="skip")
    [finding] = watch.findings
    assert (finding.site, finding.phase) == ("<loss>", "forward")
    assert "outside of what can be replayed" in finding.message


def test_of_accumulated_micro_batches_the_guilty_one_is_named() -> None:
    torch.manual_seed(0)
    model = Mean()
    optimizer = sgd(model)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for step in range(3):
            for part in range(3):
                ids, length = batch(zero=1 if (step, part) == (2, 1) else None)
                (model(ids, length=length).sum() / 3).backward()
            optimizer.step()
            optimizer.zero_grad()
    [finding] = watch.findings
    assert (finding.op, finding.source, finding.step) == ("aten.div", line("mean"), 2)
    assert told(finding, "the replay repeats") == "to the bit"


def test_a_model_that_is_fed_its_own_output_is_replayed_call_by_call() -> None:
    torch.manual_seed(0)
    model = Cell()
    optimizer = sgd(model)
    inputs = [torch.ones(2, 4) for _ in range(4)]
    inputs[2][1, 0] = 0.0
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        hidden = torch.zeros(2, 4)
        for x in inputs:
            hidden = model(x, hidden)
        hidden.sum().backward()
        optimizer.step()
    [finding] = watch.findings
    # the next call's tanh healed the infinity, so that the loss was finite
    assert (finding.op, finding.source, finding.phase) == ("aten.div", line("cell"), "backward")
    assert finding.samples == (1,)


def test_nothing_is_said_of_the_origin_where_an_input_was_changed_in_place() -> None:
    model = Mean()
    optimizer = sgd(model)
    ids, length = batch(zero=0)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        model(ids, length).sum().backward()
        ids.fill_(1)
        optimizer.step()
    [finding] = watch.findings
    assert finding.op is None
    assert told(finding, "not replayed") == (
        "`0.0` of the model's arguments was changed in place after the call"
    )


class Steps:
    """A whole step that reads the batch of its turn."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self.turn = model, optimizer, 0

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.model(*batch(zero=3 if self.turn == 1 else None)).sum()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@pytest.mark.parametrize("handed_over", [True, False])
def test_what_is_let_through_is_replayed_before_it_is_written(handed_over: bool) -> None:
    torch.manual_seed(0)
    model = Mean()
    optimizer = sgd(model)
    step = Steps(model, optimizer)
    with NanWatch(model, optimizer, on_poison="allow") as watch:
        for step.turn in range(3):
            watch.step(step) if handed_over else step()
    [finding] = watch.findings
    assert (finding.op, finding.source, finding.step) == ("aten.div", line("mean"), 1)
    assert told(finding, "the replay repeats") == "to the bit"
    assert model.head.weight.isnan().any(), "the step was written after all"


def test_skipping_a_plain_loops_steps_keeps_weights_and_random_state() -> None:
    def run(poisoned: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Mean()
        optimizer = sgd(model)
        with NanWatch(model, optimizer, on_poison="skip") as watch:
            for step in range(4):
                optimizer.zero_grad()
                loss = model(*batch(zero=0 if poisoned and step == 2 else None)).sum()
                loss.backward()
                if step == 2:
                    loss.detach_()
                    if not poisoned:
                        optimizer.zero_grad()
                optimizer.step()
        assert len(watch.findings) == poisoned
        return [*model.parameters(), torch.get_rng_state()]

    assert all(map(torch.equal, run(True), run(False)))


class Dropping(nn.Module):
    """Leaves a layer out by python's generator, as LayerDrop does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) if random.random() < 0.5 else x
        return x.abs().sum(-1).pow(0.5) / x.detach()[:, 0].sign().clamp(min=0)


def test_a_model_that_draws_from_python_is_replayed_with_the_same_draws() -> None:
    random.seed(3)
    torch.manual_seed(3)
    model = Dropping()
    optimizer = sgd(model)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for _ in range(12):
            optimizer.zero_grad()
            model(torch.randn(6, 2)).sum().backward()
            optimizer.step()
    assert watch.findings
    assert {told(each, "the replay repeats") for each in watch.findings} == {"to the bit"}


def test_the_dtype_of_autocast_is_in_force_in_the_replay() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) / (self.inner(x).dtype != torch.bfloat16)

    model = Half()
    optimizer = sgd(model)
    with NanWatch(model, optimizer) as watch:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                out = model(torch.ones(1, 2))
            out.float().nan_to_num(0, 0, 0).sum().backward()
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
    assert watch.findings == ()  # the division by zero is healed, and no symptom
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(torch.ones(1, 2))
        out.sum().backward()
        optimizer.step()
    [finding] = watch.findings
    assert finding.op == "aten.div"


class Counting(nn.Module):
    """Carries a state from call to call, with its history, and counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls, self.state = nn.Linear(2, 2), 0, torch.zeros(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.state = self.inner(x) + self.state.detach()
        return self.state / (0.0 if self.calls == 2 else 1.0)


def test_a_replay_leaves_the_models_own_attributes_as_they_were() -> None:
    def run(watched: bool) -> list[Any]:
        torch.manual_seed(0)
        model = Counting()
        optimizer = sgd(model)
        with NanWatch(model, optimizer, "sites" if watched else "sentinel", "skip") as watch:
            for _ in range(4):
                optimizer.zero_grad()
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
        assert len(watch.findings) == 1
        if watched:
            assert told(watch.findings[0], "the model's part") == ("finite: it does not repeat")
        return [model.calls, model.state.tolist(), model.inner.weight.tolist()]

    assert run(True) == run(False)


def test_a_transformers_model_with_its_loss_inside_is_replayed_whole() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = BertForSequenceClassification(config)
    optimizer = sgd(model)
    ids = torch.randint(0, 20, (3, 5))
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for scale in (1.0, float("inf")):
            optimizer.zero_grad()
            embedded = model.bert.embeddings.word_embeddings(ids).detach() * scale
            out = model(inputs_embeds=embedded, labels=torch.tensor([0, 1, 0]))
            out.loss.backward()
            optimizer.step()
    [finding] = watch.findings
    assert (finding.site, finding.phase, finding.step) == ("<data>", "data", 1)
    assert "`inputs_embeds` of the batch holds" in finding.message


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(3, 3), nn.Linear(3, 3), reentrant

    def middle(self, x: Tensor) -> Tensor:
        return (self.second(x) * 0).sqrt()  # HERE checkpointed

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_part_of_the_model_is_replayed(reentrant: bool) -> None:
    torch.manual_seed(0)
    finding = refused(Checkpointed(reentrant), torch.ones(2, 3))
    assert (finding.node, finding.source) == ("SqrtBackward0", line("checkpointed"))


@pytest.mark.filterwarnings("ignore")
def test_a_watch_around_a_compiled_model_replays_it_uncompiled() -> None:
    torch.manual_seed(0)
    model = Norm()
    compiled: Any = torch.compile(model, backend="eager")
    finding = refused(compiled, torch.ones(3, 4) * torch.tensor([[1.0], [0.0], [2.0]]))
    assert (finding.node, finding.source) == ("SqrtBackward0", line("root"))


def test_nested_watches_both_name_the_birth() -> None:
    torch.manual_seed(0)
    model = Mean()
    optimizer = sgd(model)
    with (
        NanWatch(model, optimizer, on_poison="skip") as outer,
        NanWatch(model, optimizer, on_poison="skip") as inner,
    ):
        model(*batch(zero=1)).sum().backward()
        optimizer.step()
    named = [[each.source for each in watch.findings] for watch in (outer, inner)]
    assert [line("mean")] in named  # the other may have seen a step that was refused already
    assert all(each in ([line("mean")], []) for each in named)
