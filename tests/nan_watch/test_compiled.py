"""The watch around compiled models: its flags are operators in their graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x).square().sqrt())  # HERE root


class Halves(nn.Module):
    """Several outputs, a module that is called twice, and half precision inside."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.pair = nn.Linear(6, 6), Pair()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one, more = self.pair(self.twice(self.twice(x)))
        return one.float() + more["two"].float()


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x[:, :2], {"two": x[:, 2:4]}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(model: nn.Module, backend: str = "aot_eager") -> Any:
    return torch.compile(model, backend=backend, fullgraph=True)


def trained(
    model: nn.Module, call: Callable[[Tensor], Tensor], watched: Any = None, steps: int = 3
) -> NanWatch | None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    chance = torch.Generator().manual_seed(0)

    def loop() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            x = torch.rand(8, 6, generator=chance) + 0.5
            F.cross_entropy(call(x), (x[:, 0] > 1).long()).backward()
            optimizer.step()

    if watched is None:
        loop()
        return None
    with NanWatch(watched, optimizer) as watch:
        loop()
    return watch


def safe(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(0.1)  # roots of what is not zero
    return model


@pytest.mark.parametrize(
    ("kind", "backend", "inner"),
    [
        (Net, "aot_eager", False),
        (Net, "aot_eager", True),
        (Halves, "aot_eager", False),
        (Halves, "inductor", True),
    ],
)
def test_the_graph_stays_whole_the_bits_stay_the_same_and_outputs_are_seen(
    kind: type[nn.Module], backend: str, inner: bool
) -> None:
    bare, model = safe(kind), safe(kind)
    trained(bare, whole(bare, backend))
    torch._dynamo.reset()
    compiled = whole(model, backend)
    watch = trained(model, compiled, model if inner else compiled)
    assert watch is not None
    assert all(
        torch.equal(one, two)
        for one, two in zip(bare.parameters(), model.parameters(), strict=True)
    )
    assert not watch.findings
    seen = watch.run.readings("output", "abs_max")
    names = {name for name, module in model.named_modules() if not list(module.children())}
    assert set(seen[seen.step == 2].site) == names | {"model"}
    assert (seen.value > 0).all()


def poison(watched: Any, model: nn.Module, make: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with NanWatch(watched, optimizer):
        call = make()
        for zero in (False, True):
            optimizer.zero_grad()
            x = torch.ones(4, 6)
            x[2] *= 0.0 if zero else 1.0
            with torch.no_grad():
                model.inner.bias.zero_()  # type: ignore[union-attr,operator]
            call(x).sum().backward()
            optimizer.step()


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager", fullgraph=True)
    return model


def by_a_function(model: nn.Module) -> Any:
    return torch.compile(lambda x: model(x), backend="aot_eager", fullgraph=True)


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [number for number, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


@pytest.mark.parametrize("compiled", [whole, in_place])
@pytest.mark.parametrize("way", ["cold", "warm", "inner", "inner, warm", "inside"])
def test_operator_and_line_are_named_however_it_is_compiled(
    way: str, compiled: Callable[[nn.Module], Any]
) -> None:
    model = safe()
    call: Any = None if way == "inside" else compiled(model)
    if "warm" in way:
        call(torch.ones(4, 6)).sum().backward()
    given = call if way in ("cold", "warm") else model
    own = torch.compile
    with pytest.raises(PoisonedStep) as caught:
        poison(given, model, lambda: compiled(model) if call is None else call)
    finding = caught.value.finding
    assert (finding.node, finding.source) == ("SqrtBackward0", line("root"))
    assert (finding.step, finding.samples) == (1, (2,))
    assert torch.compile is own
    kept = model._compiled_call_impl if call is None else getattr(call, "forward", None)
    assert "compiled_calls" not in getattr(kept, "__code__", own.__code__).co_filename


def test_a_call_within_a_larger_piece_that_is_compiled_is_seen_and_said_to_be_one() -> None:
    model = safe()
    with pytest.raises(PoisonedStep) as caught:
        poison(model, model, lambda: by_a_function(model))
    finding = caught.value.finding
    assert finding.site is not None
    assert any("inside of a function that is compiled" in str(e.value) for e in finding.evidence)


def test_the_second_model_of_a_class_is_seen_as_well() -> None:
    one, two = safe(), safe()
    calls = [whole(one), whole(two)]
    first = trained(one, calls[0], calls[0])
    second = trained(two, calls[1], calls[1])
    assert first is not None
    assert second is not None
    for watch in (first, second):
        seen = watch.run.readings("output", "abs_max")
        assert {"inner", "head"} <= set(seen[seen.step == 2].site)


def miscompiled(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """Code that gives NaN where the model does not."""

    def run(*given: Any) -> Any:
        return tuple(each + float("nan") for each in graph(*given))

    return run


def test_a_fault_of_the_compiled_code_alone_is_said_to_be_one() -> None:
    model = safe()
    compiled: Any = torch.compile(model, backend=miscompiled)
    for given in (compiled, model):
        with pytest.raises(PoisonedStep, match="only the compiled code shows it"):
            trained(model, compiled, given)
