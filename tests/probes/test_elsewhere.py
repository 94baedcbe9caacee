"""The checks find the same on a device that is not the processor, and where it is the default."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from probes.checking import check
from probes.command import on_device
from probes.errors import RequestError
from probes.first_step import check_first_step
from probes.seeding import seed_everything

TESTS = Path(__file__).parent.parent
MADE = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn"}
MADE |= {"randperm", "tensor", "zeros"}
CODES = (
    *("IDX001", "IDX002", "IDX003", "IDX005", "IDX011", "IDX027", "LBL001", "LBL002", "LBL003"),
    *("LBL007", "LBL008", "LBL010", "LBL012", "MSK001", "MSK004", "MSK005", "MSK006", "STA001"),
    *("STA002", "STA006", "WIR006", "WIR007", "WIR011", "WIR015"),
)


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def there() -> Iterator[str]:
    with loaded(TESTS / "elsewhere.py").elsewhere() as name:
        yield name


def told(case: ModuleType, device: str) -> list[tuple[Any, ...]]:
    seed_everything(0)
    subject = case.subject()
    with nullcontext() if device == "cpu" else torch.device(device):  # as set_default_device
        subject = subject if device == "cpu" else on_device(subject, device)
        findings = check(subject).findings
    return [(each.code, each.verdict, each.site, each.op) for each in findings]


def test_what_mixes_devices_raises_and_what_does_not_is_computed(there: str) -> None:
    model = nn.LSTM(3, 4).to(there)
    x = torch.randn(5, 2, 3).to(there)
    model(x)[0].sum().backward()
    assert model.weight_hh_l0.grad.cpu().norm() > 0
    assert torch.equal((x + 1).cpu(), x.cpu() + 1)
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device=there, generator=torch.Generator())
    with pytest.raises((RuntimeError, TypeError)):
        x.numpy()


@pytest.mark.parametrize("package", ["probes", "nan_watch", "overfit", "reports"])
def test_every_tensor_with_axes_is_made_where_it_is_said(package: str) -> None:
    """Else it lies on `torch.set_default_device`'s, beside others of the processor's."""
    silent = []
    for path in sorted((TESTS.parent / package).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and "bench" not in path.parts and _made(call):
                told = any(each.arg in (None, "device") for each in call.keywords)
                silent += [] if told else [f"{path.name}:{call.lineno} {ast.unparse(call)}"]
    assert silent == []


def _made(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    without_axes = ast.unparse(call).startswith(f"{name}(()")
    return name in {f"torch.{each}" for each in MADE} and not without_axes


def test_what_is_not_registered_is_named_where_it_was_left_behind(there: str) -> None:
    subject = on_device(loaded(TESTS / "cases" / "WIR016" / "sick.py").subject(), there)
    with pytest.raises(RequestError, match=r"keeps `layers.*and 3 more without registering it"):
        check_first_step(subject)


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES)
def test_a_sick_case_is_told_there_as_on_the_processor(code: str) -> None:
    case = loaded(TESTS / "cases" / code / "sick.py")
    wanted = told(case, "cpu")
    with loaded(TESTS / "elsewhere.py").elsewhere() as there:
        assert told(case, there) == wanted
