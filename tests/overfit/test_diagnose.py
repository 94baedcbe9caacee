from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overfit import assert_healthy, assert_memorises, diagnose
from overfit.asked import Asked
from overfit.diagnose import examine
from overfit.story import story
from probes import Ratio, Subject, Verdict
from probes.command import main
from probes.errors import RequestError
from probes.finding import Evidence, Finding, Judgement
from probes.record import Recorder

Batch = dict[str, Tensor]


def batches() -> list[Batch]:
    torch.manual_seed(0)
    x, y = torch.randn(24, 8), torch.randint(0, 3, (24,))
    return [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, 24, 8)]


def right(model: nn.Module, batch: Batch) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def make(lr: float = 0.02, **more: Any) -> Subject:
    fields: dict[str, Any] = {"batches": batches(), "metrics": {"class": right}, "loss": loss}
    torch.manual_seed(0)
    fields["model"] = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    return Subject(
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        **(fields | more),
    )


def test_an_object_is_diagnosed_on_copies_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = make(0.1)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    record = diagnose(subject, sizes=(20, 5), quick=True, out=tmp_path / "run")
    assert record.complete
    assert record.judgement.verdict is Verdict.NOTE
    assert [name for name, _ in record.parts] == [
        "check",
        "hunt",
        "overfit-20-seed0",
        "overfit-5-seed0",
    ]
    assert [each.message.split()[0] for each in record.judgement.findings] == ["5", "20"]
    assert (tmp_path / "run" / "report.html").is_file()
    assert record.facts["limits"]["FIT001"] == {
        "loss_left": 0.05,
        "heads_left": 0.05,
        "loss_gone": 0.001,
        "heads_chosen": 0.1,
        "read": 1e-4,
    }
    (note,) = record.facts["settings"]["notes"]
    assert "do not follow the seed" in note
    assert note in capsys.readouterr().err
    after = subject.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_quick_hunts_fewer_steps_and_looks_less_often(tmp_path: Path) -> None:
    records = {
        quick: dict(examine(make(0.1), Asked((5,), quick=quick), tmp_path / str(quick)).parts)
        for quick in (True, False)
    }
    assert len(records[True]["hunt"].steps) == 20 < len(records[False]["hunt"].steps)
    looks = {
        quick: parts["overfit-5-seed0"].matrix("metric", "count").steps.tolist()
        for quick, parts in records.items()
    }
    assert looks[True][:2] == [0, 20]
    assert looks[False][:2] == [0, 10]


def test_batches_of_a_generator_serve_every_move(tmp_path: Path) -> None:
    def once() -> Iterator[Batch]:
        yield from batches()

    subject = make(0.1, batches=once())
    record = examine(subject, Asked((20,), quick=True), tmp_path / "run")
    assert [each.code for each in record.judgement.findings] == ["FIT001"]


def test_the_largest_suite_leaves_its_trained_models_attention(tmp_path: Path) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x[:, None] * torch.eye(8)  # (sample, feature) -> (sample, token, feature)
            return self.head(self.attention(tokens, tokens, tokens)[0].sum(1))

    torch.manual_seed(0)
    asked = Asked((5, 20), quick=True, steps=20)
    parts = dict(examine(make(0.1, model=Attending()), asked, tmp_path / "run").parts)
    assert parts["overfit-20-seed0"].arrays[0].startswith("attention-")
    assert parts["overfit-5-seed0"].arrays == []


def test_what_is_to_be_said_of_the_samples_is_said_in_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "uncut.py").write_text(
        "import torch\n"
        "from probes import Subject\n"
        "batches = [(torch.randn(4, 3), torch.randn(7, 3)) for _ in range(3)]\n"
        "loss = lambda model, batch: sum(model(each).square().mean() for each in batch)\n"
        "adam = lambda model: torch.optim.Adam(model.parameters())\n"
        "subject = Subject(torch.nn.Linear(3, 1), batches, loss, adam)\n"
    )
    with pytest.raises(SystemExit):
        main(["overfit", "uncut.py:subject", "--sizes", "1,2", "--steps", "3"])
    said = "note: the batches cannot be cut into samples, so sizes count whole batches"
    assert capsys.readouterr().out.splitlines().count(said) == 1


def test_a_step_that_is_too_large_leads_what_it_did(tmp_path: Path) -> None:
    record = examine(make(1e3), Asked((5,), quick=True), tmp_path / "run")
    codes = [each.code for each in record.judgement.findings if each.code != "NAN000"]
    assert codes[0] == "FIT003"
    assert record.judgement.findings[0].site == "<optimizer>"


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="exists already, and a run never overwrites another"):
        diagnose(make(), sizes=(5,), out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("sizes", "said"), [((5, 50), "asks for 50"), ((0,), "names no sizes")])
def test_sizes_that_will_not_do_are_refused(
    tmp_path: Path, sizes: tuple[int, ...], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        diagnose(make(), sizes=sizes, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"class": lambda model, batch: (2, 1)}}, "returned 2 hits out of 1, but two"),
        ({"metrics": {"class": lambda model, batch: 1 / 0}}, "raised ZeroDivisionError"),
        ({"parts": {"key": lambda model, batch: batch["gone"]}}, "raised KeyError: 'gone' at "),
    ],
)
def test_a_metric_that_cannot_be_counted_is_told_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        diagnose(make(**change), sizes=(5,), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_what_memorises_is_not_complained_of() -> None:
    assert_memorises(make(0.1), sizes=(5, 20))
    assert_healthy(make(0.1))


def test_a_failed_demand_says_the_finding() -> None:
    with pytest.raises(AssertionError) as failure:
        assert_memorises(make(1e-9), sizes=(5,), steps=20)
    message = str(failure.value)
    assert message.startswith("FIT004 flat: nothing was learned from 5 samples in 20 steps")
    assert "  - loss at the start: " in message
    assert "  fix: " in message
    with pytest.raises(AssertionError, match="FIT004 flat"):
        assert_healthy(make(1e-9), steps=20)


def test_what_could_not_be_judged_is_no_success() -> None:
    with pytest.raises(AssertionError, match="FIT001 not judged: the loss began at 0"):
        assert_memorises(
            make(metrics={}, loss=lambda model, batch: model(batch["x"]).sum() * 0),
            sizes=(5,),
            steps=4,
        )


def finding(site: str) -> Finding:
    return Finding(
        "NAN000",
        "unknown-origin",
        Verdict.FAIL,
        f"`{site}` gave a NaN.",
        "Mend it.",
        site=site,
        evidence=(Evidence("loss", 1.0),),
    )


def part(record: Recorder, name: str, found: Judgement, **settings: Any) -> None:
    made = record.part(name, settings=settings)
    if settings["part"] == "suite":
        for step in range(9):
            made.values(step, "loss", "value", {"<loss>": 1.0})
    made.close(found)


def test_what_hunt_and_suites_both_saw_is_told_once_and_first(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "run")
    suite = {"part": "suite", "seed": 0, "steps": 400, "ended": "refused", "refused": 9}
    part(record, "hunt", Judgement((finding("decoder"),)), part="hunt")
    part(record, "overfit-5-seed0", Judgement((finding("decoder"),)), size=5, said="it.", **suite)
    both = Judgement((finding("decoder"), finding("encoder")))
    part(record, "overfit-20-seed0", both, size=20, said="it.", **suite)
    told = story(record.folder)
    record.close(told)
    assert [(each.code, each.site) for each in told.findings] == [
        ("NAN000", "decoder"),
        ("NAN000", "encoder"),
        ("FIT003", None),
        ("FIT003", None),
    ]
    assert "5 samples" in told.findings[2].message
    assert story(record.folder) == told


def test_an_optimizer_that_cannot_be_made_again_leaves_why_unanswered(tmp_path: Path) -> None:
    calls: list[int] = []

    def few(model: nn.Module) -> torch.optim.Optimizer:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("made often enough")
        return torch.optim.SGD(model.parameters(), lr=1e-9)

    subject = dataclasses.replace(make(), optimizer=few)
    asked = Asked((5,), hunted=False, quick=True, steps=4, why=True)
    record = examine(subject, asked, tmp_path / "run")
    why = {each.code: each.why for each in record.judgement.not_judged}
    assert why["FIT016"].startswith(
        "the optimizer cannot be made again: RuntimeError: made often enough"
    )


@pytest.mark.slow
def test_two_things_that_are_wrong_are_unlocked_together(tmp_path: Path) -> None:
    """Neither alone is enough: a schedule that keeps the rate small, and clipping to nothing."""
    subject = make(
        0.1,
        clip_norm=1e-3,
        schedule=lambda over: torch.optim.lr_scheduler.LambdaLR(over, lambda step: 1e-3),
    )
    asked = Asked((5,), hunted=False, quick=True, steps=40, why=True)
    record = examine(subject, asked, tmp_path / "run")
    found = {each.code: each for each in record.judgement.findings}
    unlocked, slow = found["FIT016"], found["FIT004"]
    assert "`clipping off` and `schedule and warm-up off`" in unlocked.message
    assert " together unlock 5 samples: memorised within " in unlocked.message
    assert unlocked.confirmed
    assert slow.confirmed
    tried = {each.what: str(each.value) for each in unlocked.evidence}
    assert not any(tried[name].startswith("memorised") for name in tried if " and " not in name)
