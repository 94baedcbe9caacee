"""Every rule fires on its own sick case; every healthy twin is silent under all rules.

A case is a subject, which goes through the whole diagnosis, a series of checkpoints, or a loop of
several ranks; the sick case of a check goes through the checks.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nan_watch import NanWatch
from nan_watch.autopsy import autopsy
from overfit.asked import Asked
from overfit.diagnose import examine
from probes.checking import check
from probes.command import gather, on_device
from probes.finding import Finding, Judgement, Verdict
from probes.run import Run
from probes.seeding import seed_everything
from probes.subject import Subject

Work = Callable[[int], object]
Ranks = Callable[[int, Work], list[object]]
CASES = Path(__file__).parent / "cases"
pytestmark = pytest.mark.filterwarnings("ignore:std.*degrees of freedom")  # NAN012's own
RULES = {rule.code: rule for rule in gather("whynan.rules")}
DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


@pytest.fixture(autouse=True)
def _nothing_was_compiled() -> None:
    """What other tests compiled in this process is none of a case's business."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None:
        dynamo.counters.clear()


def case(code: str, name: str) -> ModuleType:
    path = CASES / code / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"case_{code}_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def subject_of(module: ModuleType, device: str) -> Subject:
    """The case's subject, seeded, on the device."""
    if not hasattr(module, "subject"):
        pytest.skip("checkpoints and loops of several ranks are no subjects")
    if device != "cpu" and hasattr(module, "STAYS"):
        pytest.skip(module.STAYS)
    seed_everything(0)
    return module.subject() if device == "cpu" else on_device(module.subject(), device)


def diagnosed(code: str, name: str, device: str, folder: Path, ranks: Ranks) -> Judgement:
    """What the whole diagnosis says of a case, without a page."""
    module = case(code, name)
    if device == "cpu" and hasattr(module, "checkpoints"):
        return autopsy(module.checkpoints(folder), folder / "run").judgement
    if device == "cpu" and hasattr(module, "RANKS"):
        return trained_by_ranks(module, folder, ranks)
    subject = subject_of(module, device)
    with torch.device(device):  # what a case's own code makes lies there, too
        if getattr(module, "CHECK", False) and name == "sick":
            return check(subject)
        asked = Asked(**{"quick": True, "sizes": (5, 20), **getattr(module, "ASKED", {})})
        return examine(subject, asked, folder / "run").judgement


def trained_by_ranks(case: ModuleType, folder: Path, ranks: Ranks) -> Judgement:
    """What the watch of rank 0 says of a case that several processes train."""

    def train(rank: int) -> None:
        seed_everything(0)
        model, optimizer = case.build(rank)
        with NanWatch(model, optimizer, out=folder / "run", timeout=30):
            case.train(rank, model, optimizer)

    ranks(case.RANKS, train)
    return Run(folder / "run").judgement


def planted_lines(code: str) -> list[str]:
    """`sick.py:18` for the line of the sick case that is marked as the planted one."""
    lines = (CASES / code / "sick.py").read_text().splitlines()
    return [f"sick.py:{i}" for i, line in enumerate(lines, 1) if line.endswith("# planted")]


def test_codes_and_slugs_are_unique() -> None:
    rules = gather("whynan.rules")
    assert len({rule.code for rule in rules}) == len(rules)
    assert len({rule.rule for rule in rules}) == len(rules)


@pytest.mark.parametrize("code", sorted(RULES))
def test_a_rule_explains_itself(code: str) -> None:
    rule = RULES[code]
    assert is_dataclass(rule)
    assert type(rule).__dataclass_params__.frozen
    text = inspect.cleandoc(rule.__doc__ or "")
    assert "Sick:" in text
    assert "Healthy:" in text
    assert rule.family in ("cause", "health", "check", "verdict")
    module = inspect.getmodule(rule)
    assert module is not None
    own = [value for value in vars(module).values() if getattr(value, "code", None) == code]
    assert own == [type(rule)], "one rule, one file"


def test_every_rule_has_its_pair_of_cases() -> None:
    for code in RULES:
        assert {path.name for path in (CASES / code).glob("*.py")} >= {"sick.py", "healthy.py"}, (
            code
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("code", sorted(RULES))
def test_a_rule_fires_on_its_sick_case_at_the_planted_place(
    code: str, device: str, tmp_path: Path, ranks: Ranks
) -> None:
    judgement = diagnosed(code, "sick", device, tmp_path, ranks)
    found = [finding for finding in judgement.findings if finding.code == code]
    assert found, f"{code} is silent on its own sick case"
    for field, value in (getattr(case(code, "sick"), "PLANTED", None) or {}).items():
        assert value in [getattr(finding, field) for finding in found], field
    for line in planted_lines(code):
        assert line in [(finding.source or "").rpartition("/")[2] for finding in found]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("code", sorted(RULES))
def test_nothing_above_a_note_is_said_of_a_healthy_twin(
    code: str, device: str, tmp_path: Path, ranks: Ranks
) -> None:
    judgement = diagnosed(code, "healthy", device, tmp_path, ranks)
    worse: list[Finding] = [f for f in judgement.findings if f.verdict.rank > Verdict.NOTE.rank]
    assert worse == []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("code", sorted(RULES))
def test_no_check_says_more_than_a_note_of_a_healthy_twin(code: str, device: str) -> None:
    subject = subject_of(case(code, "healthy"), device)
    with torch.device(device):
        findings = check(subject).findings
    assert [f for f in findings if f.verdict.rank > Verdict.NOTE.rank] == []
