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
    ("kind", "backend"), [(Net, "aot_eager"), (Halves, "aot_eager"), (Halves, "inductor")]
)
def test_the_graph_stays_whole_the_bits_stay_the_same_and_outputs_are_seen(
    kind: type[nn.Module], backend: str
) -> None:
    bare, model = safe(kind), safe(kind)
    trained(bare, whole(bare, backend))
    torch._dynamo.reset()
    compiled = whole(model, backend)
    watch = trained(model, compiled, compiled)
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


def poison(watched: Any, model: nn.Module, call: Callable[[Tensor], Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with NanWatch(watched, optimizer):
        for zero in (False, True):
            optimizer.zero_grad()
            x = torch.ones(4, 6)
            x[2] *= 0.0 if zero else 1.0
            with torch.no_grad():
                model.inner.bias.zero_()  # type: ignore[union-attr,operator]
            call(x).sum().backward()
            optimizer.step()


@pytest.mark.parametrize("way", ["cold", "warm", "inner", "in place", "inside"])
def test_operator_and_line_are_named_however_it_is_compiled(way: str) -> None:
    model = safe()
    call: Any = whole(model)
    given: Any = model if way == "inner" else call
    if way == "warm":
        call(torch.ones(4, 6)).sum().backward()
    if way == "in place":
        model.compile(backend="aot_eager", fullgraph=True)
        call = given = model
    with pytest.raises(PoisonedStep) as caught:
        poison(given, model, call)
    finding = caught.value.finding
    assert finding.step == 1
    if way in ("cold", "warm"):
        [line] = [
            number
            for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
            if text.endswith("# HERE root")
        ]
        assert (finding.node, finding.source) == ("SqrtBackward0", f"{__file__}:{line}")
        assert finding.samples == (2,)
    else:  # the call is inside of what is compiled, and is not known
        assert finding.site is not None


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
    with pytest.raises(PoisonedStep, match="only the compiled code shows it"):
        trained(model, compiled, compiled)
