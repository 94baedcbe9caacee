"""A watch that is used otherwise than it was meant: one sentence, and no wrong claim."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, IterableDataset

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import default_steps, hunt
from probes import Finding, Subject, Verdict
from probes.errors import RequestError

STEPS = 12
Step = Callable[[nn.Module, Optimizer, Tensor], None]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))


def batches(steps: int = STEPS, sick: int | None = None) -> Iterator[Tensor]:
    chance = torch.Generator().manual_seed(0)
    for step in range(steps):
        x = torch.randn(8, 6, generator=chance)
        if step == sick:
            x[3, 2] = float("nan")
        yield x


def backward(model: nn.Module, x: Tensor) -> None:
    F.cross_entropy(model(x), torch.arange(8) % 2).backward()


def one(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    backward(model, x)
    optimizer.step()


def trained(model: nn.Module, optimizer: Any, step: Step = one) -> tuple[Finding, ...]:
    with NanWatch(model, optimizer) as watch:
        for x in batches():
            step(model, optimizer, x)
    return tuple(each for each in watch.findings if each.verdict.rank > Verdict.NOTE.rank)


def test_a_watch_stands_around_one_block_at_a_time() -> None:
    model = net()
    optimizer = Adam(model.parameters())
    watch = NanWatch(model, optimizer)
    with watch:
        with pytest.raises(RequestError, match="stands around a block already"):
            watch.__enter__()
        one(model, optimizer, next(batches()))
    assert not any(module._forward_hooks for module in model.modules())
    with watch:
        one(model, optimizer, next(batches()))
    assert watch.steps == 2


def test_what_is_no_model_is_refused_with_a_sentence() -> None:
    model = net()
    with pytest.raises(RequestError, match="`model` is a list, but an"):
        NanWatch([model], Adam(model.parameters()))  # type: ignore[arg-type]


def test_a_list_of_optimizers_is_guarded_as_one() -> None:
    model = net()
    pair = [Adam(part.parameters(), 1e-2) for part in (model[0], model[2])]

    def step(x: Tensor) -> None:
        model.zero_grad()
        backward(model, x)
        for each in reversed(pair):
            each.step()

    watch = NanWatch(model, pair)  # type: ignore[arg-type]
    with pytest.raises(PoisonedStep, match="`input` of the batch"), watch:
        list(map(step, batches(sick=3)))
    assert watch.steps == 7
    assert all(each.isfinite().all() for each in model.parameters())


def test_parameters_that_another_optimizer_trains_are_not_said_to_never_learn() -> None:
    model = net()
    other = Adam(model[2].parameters(), 1e-2)

    def step(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
        other.zero_grad()
        one(model, optimizer, x)
        other.step()

    with NanWatch(model, Adam(model[0].parameters(), 1e-2)) as watch:
        for x in batches():
            step(model, watch._guard.optimizer, x)
    assert "GRD009" not in {each.code for each in watch.findings}


def test_an_optimizer_that_is_made_inside_the_block_is_told_of() -> None:
    def step(model: nn.Module, _: Optimizer, x: Tensor) -> None:
        one(model, SGD(model.parameters(), 0.1), x)

    model = net()
    [found] = trained(model, Adam(model.parameters()), step)
    assert found.code == "GRD013"
    assert found.message.startswith(
        "the watched `Adam` was never stepped; `SGD`, which is not watched, stepped parameters of "
        f"the model {STEPS} times"
    )


def test_a_step_that_is_forgotten_is_told_of() -> None:
    model = net()
    optimizer = Adam(model.parameters())
    [found] = trained(model, optimizer, lambda model, _, x: backward(model, x))
    assert found.message.startswith("`Adam` was never stepped, though gradients came back in 12")


def test_forward_passes_alone_are_no_training() -> None:
    model = net()
    assert trained(model, Adam(model.parameters()), lambda model, _, x: model(x)) == ()


def test_a_step_without_gradients_is_told_of_but_not_of_an_optimizer_that_needs_none() -> None:
    class Wanders(Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for parameter in self.param_groups[0]["params"]:
                parameter.add_(1e-3)

    def step(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
        model(x)
        optimizer.step()

    model = net()
    [found] = trained(model, Adam(model.parameters()), step)
    assert found.message.startswith("`Adam` was stepped 12 times, and in no step had any")
    assert trained(model, Wanders(model.parameters()), step) == ()


def test_a_part_that_is_replaced_inside_the_block_is_told_of() -> None:
    model = net()
    optimizer = Adam(model.parameters())
    with NanWatch(model, optimizer) as watch:
        one(model, optimizer, next(batches()))
        model[2] = nn.Linear(16, 2)
        for x in batches():
            one(model, optimizer, x)
    [found] = [each for each in watch.findings if each.verdict.rank > Verdict.NOTE.rank]
    assert (found.code, found.site) == ("GRD009", "2.weight")
    assert "the optimizer holds what stood there before" in found.message


class InAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Linear(6, 6), nn.Linear(6, 6)]
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x).tanh()
        return self.head(x)

    def all_of_them(self) -> list[nn.Parameter]:
        return [*self.parameters(), *(p for part in self.parts for p in part.parameters())]


def test_modules_in_a_plain_list_that_nobody_trains_are_told_of() -> None:
    torch.manual_seed(0)
    model = InAList()
    [found] = trained(model, Adam(model.parameters()))
    assert (found.code, found.site) == ("GRD009", "parts[0].weight")
    assert "and 3 more get gradients, but are not among the model's parameters" in found.message
    optimizer = Adam(model.all_of_them())
    model.parts[1] = nn.Linear(6, 6)  # after the optimizer was made
    assert [each.site for each in trained(model, optimizer)] == ["parts[1].weight"]


def test_modules_in_a_plain_list_are_healthy_where_somebody_trains_them_or_none_is_to() -> None:
    torch.manual_seed(0)
    model = InAList()
    assert trained(model, Adam(model.all_of_them())) == ()
    other = SGD([p for part in model.parts for p in part.parameters()], 0.1)

    def step(model: nn.Module, optimizer: Optimizer, x: Tensor) -> None:
        other.zero_grad()
        one(model, optimizer, x)
        other.step()

    assert trained(model, Adam(model.parameters()), step) == ()
    for part in model.parts:
        part.eval()  # as a fixed network is
    assert trained(model, Adam(model.parameters())) == ()


def test_frozen_parameters_that_are_converted_inside_the_block_have_not_changed() -> None:
    model = net()
    model[0].requires_grad_(False)
    optimizer = Adam(model[2].parameters())
    with NanWatch(model, optimizer) as watch:
        model.double()
        for x in batches():
            one(model, optimizer, x.double())
    assert "GRD010" not in {each.code for each in watch.findings}


def test_a_loop_may_change_the_working_folder() -> None:
    Path("elsewhere").mkdir()
    model = net()
    optimizer = Adam(model.parameters())
    with NanWatch(model, optimizer, out="run") as watch:
        one(model, optimizer, next(batches()))
        os.chdir("elsewhere")
        for x in batches():
            one(model, optimizer, x)
    assert watch.run.steps.tolist() == list(range(STEPS + 1))
    assert not list(Path().iterdir())


@pytest.fixture
def compiler() -> Iterator[None]:
    """What is compiled is none of a later test's business."""
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("default")
def test_an_optimizer_step_may_be_compiled() -> None:
    bare, model = net(), net()
    for each, watched in ((bare, False), (model, True)):
        optimizer = Adam(each.parameters(), 1e-2)
        step = torch.compile(optimizer.step, backend="eager")

        def loop(each: nn.Module = each, step: Any = step) -> None:
            for x in batches(4):
                each.zero_grad()
                backward(each, x)
                step()

        if watched:
            with NanWatch(each, optimizer) as watch:
                loop()
        else:
            loop()
    assert watch.steps == 4
    assert len(watch.run.readings("update", "ratio")) > 0
    assert all(map(torch.equal, bare.parameters(), model.parameters()))


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for x in batches(3):
            for row in x:
                yield {"x": row, "y": (row[0] > 0).long()}


def test_a_data_loader_without_a_length_is_hunted_through() -> None:
    loader = DataLoader(Stream(), 4)
    subject = Subject(
        net(),
        loader,
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        lambda model: Adam(model.parameters()),
    )
    assert default_steps(loader) == 100
    assert hunt(subject, 8).steps == 8


def test_a_process_that_seems_to_be_one_of_several_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = net()
    for world in ("", "1", "many"):
        monkeypatch.setenv("WORLD_SIZE", world)
        assert trained(model, Adam(model.parameters())) == ()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.warns(UserWarning, match="`WORLD_SIZE` is 2 and `RANK` is 1, but torch.distr"):
        trained(model, Adam(model.parameters()))


def test_a_step_that_takes_its_batch_from_an_iterator_is_told_by_the_models_calls() -> None:
    model = net()
    optimizer = Adam(model.parameters())
    left = batches(sick=3)
    with NanWatch(model, optimizer) as watch:
        for _ in range(3):
            watch.step(lambda: one(model, optimizer, next(left)))
        with pytest.raises(PoisonedStep) as caught:
            watch.step(lambda: one(model, optimizer, next(left)))
    finding = caught.value.finding
    assert finding.message.startswith("`input` of the batch holds 1 NaN of 48, first at sample 3")
    assert any("does something else" in str(each.value) for each in finding.evidence)
