from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, Mask, Subject
from probes.checking import check, chosen
from probes.checks import RULES
from probes.errors import RequestError
from probes.experiment import Experiment
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything
from probes.subject import load_subject


def _healthy() -> dict[str, Callable[[], Subject]]:
    spec = importlib.util.spec_from_file_location("healthy", Path(__file__).with_name("healthy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: dict[str, Callable[[], Subject]] = module.HEALTHY
    return made


HEALTHY = _healthy()


def worse_than_a_note(subject: Subject) -> list[Finding]:
    return [f for f in check(subject).findings if f.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_above_a_note_is_said_of_a_healthy_subject(name: str) -> None:
    seed_everything(0)
    assert worse_than_a_note(HEALTHY[name]()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hierarchical", "seq2seq"])
def test_nothing_above_a_note_is_said_of_the_specimen(name: str) -> None:
    assert worse_than_a_note(load_subject(f"model.subject:{name}", 0)) == []


def test_the_subject_is_as_it_was() -> None:
    seed_everything(0)
    subject = HEALTHY["accumulation"]()
    model = subject.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = [leaf.clone() for leaf in next(iter(subject.batches))]
    state = torch.get_rng_state()
    check(subject)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for leaf, kept in zip(next(iter(subject.batches)), batch, strict=True):
        assert torch.equal(leaf, kept)


def test_an_optimizer_of_another_instance_trains_nothing_for_good() -> None:
    other, model = nn.Linear(4, 2), nn.Linear(4, 2)
    before = other.weight.detach().clone()

    def step(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        loss = model(x).square().mean() + other(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    subject = Subject(
        model,
        [torch.randn(6, 4)],
        lambda model, x: model(x).square().mean(),
        lambda _: torch.optim.SGD(other.parameters(), lr=0.1),
        train_step=step,
    )
    found = check(subject).findings
    assert any(f.code == "WIR003" and f.verdict is Verdict.FAIL for f in found)
    assert torch.equal(other.weight, before)
    assert other.weight.grad is None


def test_a_model_that_refuses_other_batches_is_not_judged_there_and_elsewhere_is() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        if not torch.equal(batch["x"], x):
            raise ValueError("this is not the batch that I know")
        return F.cross_entropy(model(batch["x"]), batch["labels"])

    seed_everything(0)
    x = torch.randn(6, 4)
    subject = Subject(
        nn.Linear(4, 3),
        [{"x": x, "labels": torch.tensor([0, 1, 2, 0, 1, 2])}],
        loss,
        lambda model: torch.optim.Adam(model.parameters()),
    )
    judgement = check(subject)
    why = {each.code: each.why for each in judgement.not_judged}
    assert "raised ValueError: this is not the batch that I know at" in why["MSK002"]
    assert "test_checks.py:" in why["MSK002"]
    assert {"WIR001", "WIR002", "WIR003", "WIR006"} <= set(judgement.passed)
    assert judgement.exit_status == 0


@dataclass(frozen=True)
class Broken:
    """A check with a bug."""

    code: ClassVar[str] = "TST001"
    rule: ClassVar[str] = "broken"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        yield from ()
        raise ZeroDivisionError("oh")


def test_a_check_that_is_itself_broken_is_broken_and_the_others_go_on() -> None:
    seed_everything(0)
    judgement = check(HEALTHY["batch_norm"](), [Broken(), *RULES])
    assert [f.code for f in judgement.findings] == ["TST001"]
    assert judgement.exit_status == 3
    assert "MSK002" in judgement.passed


def test_a_model_that_does_not_repeat_is_said_to_and_widens_the_noise() -> None:
    chance = torch.Generator().manual_seed(0)

    def predict(model: nn.Module, x: Tensor) -> Any:
        return model(x) + 1e-3 * torch.rand(len(x), 3, generator=chance)

    seed_everything(0)
    subject = Subject(
        nn.Linear(4, 3),
        [torch.randn(6, 4)],
        lambda model, x: predict(model, x).square().mean(),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=predict,
    )
    findings = check(subject).findings
    assert {f.code for f in findings if f.verdict is Verdict.NOTE} >= {"WIR001"}
    assert [f for f in findings if f.verdict.rank > Verdict.NOTE.rank] == []


def test_a_finding_that_rests_on_a_guess_warns_and_prints_the_line() -> None:
    path = Path(__file__).parent.parent / "cases" / "MSK001" / "sick.py"
    subject = load_subject(f"{path}:subject", 0)
    guessed = next(f for f in check(subject).findings if f.code == "MSK001")
    assert guessed.verdict is Verdict.WARN
    line = guessed.fix.partition("Layout(")[2].rpartition(")` in the `Subject`")[0]
    assert (
        "a guess, that `attention_mask` is 1, or true, where a position is no padding"
        in guessed.fix
    )
    layout = eval(f"Layout({line})", {"Layout": Layout, "Mask": Mask})
    declared = check(replace(subject, layout=layout)).findings[0]
    assert (declared.code, declared.verdict) == ("MSK001", Verdict.FAIL)
    assert "guess" not in declared.fix


def test_checks_are_chosen_by_code_or_slug() -> None:
    assert [c.code for c in chosen(["wir001", "pad-leak"])] == ["WIR001", "MSK001"]
    assert "WIR001" not in [c.code for c in chosen(skip=["WIR001"])]
    with pytest.raises(RequestError, match="`XYZ` is no check's code or name"):
        chosen(["XYZ"])


def test_the_command_writes_a_run_folder_and_says_how_to_render_it(whynan, tmp_path: Path) -> None:
    path = Path(__file__).parent.parent / "cases" / "WIR002" / "sick.py"
    done = whynan("check", f"{path}:subject", "--only", "WIR002,WIR004", "--out", "run")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "run: run"
    assert "warn WIR002 parameter-does-not-learn" in done.stdout
    assert "not judged WIR004: the subject has no `train_step`" in done.stdout
    assert "`whynan render run`" in done.stdout
    found = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert [f["site"] for f in found["findings"]] == ["encoder"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["complete"]
    assert whynan("render", "run").returncode == 0


def test_the_command_lists_and_refuses(whynan) -> None:
    listed = whynan("check", "--list", "--skip", "WIR001")
    assert listed.returncode == 0
    assert "MSK001 pad-leak: " in listed.stdout
    assert "WIR001" not in listed.stdout
    for arguments, sentence in (
        ((), "`check` was given no subject"),
        (("--only", "XYZ", "a.py:b"), "`XYZ` is no check's code or name"),
        (("--only", "MSK04", "a.py:b"), "Did you mean `MSK014`, `MSK004` or `MSK016`?"),
    ):
        done = whynan("check", *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
