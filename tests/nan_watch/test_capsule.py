"""A refused step fails again from its capsule, with the same finding and with fewer samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch
from nan_watch.capsule import load
from nan_watch.capsule.again import SAME, again
from nan_watch.capsule.shrink import shrink
from nan_watch.hunt import hunt
from probes import Subject
from probes.command import main
from probes.errors import RequestError
from probes.record import Recorder
from probes.run import Run

SUBJECT = """
import torch
from torch import nn
from probes import Subject


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.drop = nn.Embedding(10, 8), nn.Dropout(0.3)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, ids, length):
        hidden = self.norm(self.drop(self.embedding(ids)).sum(1) / length[:, None])
        return self.head(hidden)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["ids"], batch["length"]), batch["y"])


def subject():
    ids, y = torch.randint(1, 10, (24, 5)), torch.randint(0, 4, (24,))
    length = torch.full((24,), 5.0)
    length[21] = 0.0
    batches = [
        dict(ids=ids[i : i + 8], y=y[i : i + 8], length=length[i : i + 8], name="part")
        for i in (0, 8, 16)
    ]
    adam = lambda model: torch.optim.AdamW(model.parameters(), lr=0.01)
    return Subject(Model(), batches, loss, adam, clip_norm=1.0)
"""

LOOP = """
import sys
import torch
import train
from nan_watch import NanWatch, PoisonedStep

torch.manual_seed(0)
subject = train.subject()
optimizer = subject.optimizer(subject.model)
with NanWatch(subject.model, optimizer, out="run") as watch:
    for batch in subject.batches:
        optimizer.zero_grad()
        loss = train.loss(subject.model, batch)
        watch.backward(loss)
        optimizer.step()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SUBJECT)
    (tmp_path / "loop.py").write_text(LOOP)
    return tmp_path / "train.py"


def status(*words: str) -> int:
    """The command's exit status, in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def lead(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "findings.json").read_text())["findings"][0]
    return {name: found[name] for name in SAME}


def test_a_new_process_gives_the_same_finding_also_from_another_folder(
    whynan: Any, file: Path
) -> None:
    assert whynan("hunt", "train.py:subject", "--out", "run").returncode == 1
    capsule = file.parent / "run" / "capsule"
    assert {path.suffix for path in capsule.iterdir()} == {".json", ".safetensors"}
    done = whynan("replay", "run", "--out", "again")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0] == "NAN004 of step 2 reproduces on cpu: the same finding"
    assert done.stdout.splitlines()[-1] == "run: again"
    assert lead(file.parent / "again") == lead(file.parent / "run")
    assert not (file.parent / "again" / "capsule").exists()
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    command = [str(Path(sys.executable).with_name("whynan")), "replay", str(capsule)]
    moved = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert moved.returncode == 1, moved.stderr
    assert "reproduces on cpu: the same finding" in moved.stdout


def test_a_bug_that_was_mended_does_not_reproduce(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("hunt", f"{file}:subject", "--out", "run") == 1
    mended = SUBJECT.replace("length[:, None]", "length.clamp(min=1)[:, None]")
    file.write_text(mended)
    capsys.readouterr()
    assert status("replay", "run", "--out", "again") == 0
    assert "does not reproduce on cpu: the step is finite here" in capsys.readouterr().out
    file.write_text(SUBJECT.replace("/ length[:, None]", ".log()"))
    assert status("replay", "run", "--out", "other") == 1
    assert "`op` was aten.div, is aten.log" in capsys.readouterr().out


def test_shrinking_leaves_the_guilty_sample(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(SUBJECT.replace("self.norm(", "(").replace("nn.BatchNorm1d(8)", "None"))
    assert status("hunt", f"{file}:subject", "--out", "run") == 1
    capsys.readouterr()
    assert status("shrink", "run", "--out", "small") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "samples: 5"
    assert lines[2] == f"capsule: {Path('small') / 'capsule'}"
    assert lines[-1] == "run: small"
    smaller = load(Path("small"))
    assert (smaller.samples, smaller.batch["length"].tolist()) == ((5,), [0.0])
    assert status("replay", "small", "--out", "again") == 1
    assert "the same finding" in capsys.readouterr().out


def test_a_plain_loops_capsule_needs_a_subject_and_then_gives_the_same(
    file: Path, whynan: Any
) -> None:
    done = subprocess.run([sys.executable, "loop.py"], cwd=file.parent, capture_output=True)
    assert done.returncode == 1
    refused = whynan("replay", "run")
    assert refused.returncode == 2
    assert "`--subject` is not given, and the capsule comes from a loop" in refused.stderr
    done = whynan("replay", "run", "--subject", "train.py:subject", "--out", "again")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("NAN004 of step 2 reproduces on cpu: the same finding")
    shrunk = whynan("shrink", "run", "--subject", "train.py:subject", "--out", "small")
    assert shrunk.returncode == 1, shrunk.stderr
    assert "samples: " in shrunk.stdout
    assert 1 <= len(load(file.parent / "small").samples or ()) <= 2
    assert lead(file.parent / "again") == lead(file.parent / "small")


def test_wrong_requests_end_with_a_sentence(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("hunt", f"{file}:subject", "--out", "run") == 1
    Path("empty").mkdir()
    assert status("replay", "empty") == 2
    assert "`empty` holds no capsule" in capsys.readouterr().err
    file.write_text(SUBJECT.replace("nn.Linear(8, 4)", "nn.Linear(8, 6)"))
    assert status("replay", "run", "--out", "again") == 2
    assert "`head.bias` is (4,) there, but the model has (6,)" in capsys.readouterr().err
    assert not Path("again").exists()
    text = Path("run/capsule/capsule.json").read_text()
    Path("run/capsule/capsule.json").write_text(text[: len(text) // 2])
    assert status("replay", "run") == 2
    assert "it was cut or changed" in capsys.readouterr().err


# --- what is kept --------------------------------------------------------------------------------


def subject_of(batches: list[Any], **more: Any) -> Subject:
    torch.manual_seed(0)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch["x"]).square().mean(-1) * batch["weight"]).mean()

    return Subject(
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 2)),
        batches,
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=0.1, betas=(0.8, 0.9)),
        **more,
    )


def batches(*poison: int, size: int = 4) -> list[Any]:
    chance = torch.Generator().manual_seed(0)
    made = [{"x": torch.randn(size, 3, generator=chance), "weight": torch.ones(size)} for _ in "ab"]
    for sample in poison:
        made[1]["weight"][sample] = float("nan")
    return made


def test_weights_optimizer_modes_and_generators_are_those_before_the_step() -> None:
    subject = subject_of(batches(2))
    found = hunt(subject, 5, Path("run"))
    capsule = load(found.folder)
    weights = dict(subject.model.named_parameters())
    assert all(torch.equal(weights[name], kept) for name, kept in capsule.start.parameters.items())
    assert capsule.start.optimizer.groups[0]["betas"] == [0.8, 0.9]
    assert float(capsule.start.optimizer.tensors["0.step"]) == 1.0
    fresh = subject_of(batches(2))
    fresh.model.eval()
    outcome = again(capsule, fresh, Recorder(Path("again")))
    assert outcome.differs == ()
    [was], [now] = found.judgement.findings, outcome.judgement.findings
    assert (was.message, was.batch, was.samples) == (now.message, now.batch, now.samples)
    assert fresh.model.training


@pytest.mark.parametrize("on_poison", ["raise", "allow"])
def test_weights_that_an_update_poisoned_give_the_same_finding(on_poison: Any) -> None:
    class Reckless(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            self.count = getattr(self, "count", -1) + 1
            if self.count == 2:
                self.param_groups[0]["params"][0].data[1] = float("inf")

    def made() -> Subject:
        subject = subject_of(batches())
        return Subject(
            subject.model, subject.batches, subject.loss, lambda m: Reckless(m.parameters(), 0.1)
        )

    found = hunt(made(), 6, Path("run"), on_poison=on_poison)
    finding = found.judgement.findings[0]
    assert (finding.phase, finding.step) == ("update", 2)
    outcome = again(load(Path("run")), made(), Recorder(Path("again")))
    assert outcome.differs == ()


def test_what_is_let_through_leaves_a_capsule_with_clean_weights() -> None:
    hunt(subject_of(batches(2)), 5, Path("run"), on_poison="allow")
    capsule = load(Path("run"))
    assert all(kept.isfinite().all() for kept in capsule.start.parameters.values())
    assert again(capsule, subject_of(batches(2)), Recorder(Path("again"))).differs == ()


def test_three_stories_leave_a_capsule_and_no_more() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(5)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer, on_poison="skip", out="run") as watch:
        for each in model:
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            each.weight.grad[0, 0] = float("nan")
            optimizer.step()
    assert len(watch.findings) == 5
    kept = sorted(path.name for path in Path("run").glob("capsule*"))
    assert kept == ["capsule", "capsule-2", "capsule-3"]


def test_a_healthy_run_leaves_none() -> None:
    hunt(subject_of(batches()), 5, Path("run"))
    assert list(Path("run").glob("capsule*")) == []


class Interrupting(dict[str, Any]):
    """A batch in whose writing the user presses Ctrl-C."""

    pressed = False

    def items(self) -> Any:
        if type(self).pressed:
            raise KeyboardInterrupt
        return super().items()


def test_ctrl_c_while_a_capsule_is_written_leaves_none_of_it() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = NanWatch(model, optimizer, out="run")
    batch = Interrupting(x=torch.full((2, 3), float("nan")))

    def step() -> None:
        model(batch["x"]).sum().backward()
        type(batch).pressed = model.weight.grad is not None
        optimizer.step()

    with pytest.raises(KeyboardInterrupt), watch:
        watch.step(step, batch=batch)
    assert list(Path("run").glob("capsule*")) == []
    assert watch.run.facts["settings"]["ended_by"] == "KeyboardInterrupt"


def test_what_cannot_be_written_is_said_and_hides_no_refusal() -> None:
    found = hunt(subject_of([each | {"odd": object()} for each in batches(1)]), 5, Path("run"))
    told = {each.what: each.value for each in found.judgement.findings[0].evidence}
    assert told["left out of the capsule"] == "batch.odd: builtins.object"
    with pytest.raises(RequestError, match=r"`batch\.odd: builtins\.object` of the step's batch"):
        again(load(Path("run")), subject_of(batches(1)), Recorder(Path("again")))


# --- shrinking -----------------------------------------------------------------------------------


def pairwise_subject() -> Subject:
    """Fails only where samples 3 and 11 stand together: their logits cancel, and 1 / 0 is inf."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        total = (batch["mark"].sum() != 2.0).float()
        return (model(batch["x"]).square().mean() / total).mean()

    mark = torch.zeros(16)
    mark[[3, 11]] = 1.0
    torch.manual_seed(0)
    return Subject(
        nn.Linear(3, 2),
        [{"x": torch.randn(16, 3), "mark": mark, "number": 7}],
        loss,
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
    )


def test_samples_that_fail_only_together_are_kept_together() -> None:
    hunt(pairwise_subject(), 1, Path("run"))
    said: list[tuple[int, int]] = []
    shrunk = shrink(load(Path("run")), pairwise_subject(), lambda *told: said.append(told))
    assert shrunk.capsule.samples == (3, 11)
    assert shrunk.capsule.batch["mark"].tolist() == [1.0, 1.0]
    assert shrunk.capsule.batch["number"] == 7
    assert [tries for _, tries in said] == list(range(1, shrunk.tries + 1))


def test_a_smaller_set_that_fails_in_another_way_is_no_answer() -> None:
    """A single sample gives a variance that is NaN; the whole batch fails at sample 9."""

    def made() -> Subject:
        def loss(model: nn.Module, batch: Any) -> Tensor:
            y = model(batch["x"]).squeeze(-1)
            return (y / batch["weight"]).square().mean() + y.var()

        torch.manual_seed(0)
        weight = torch.ones(12)
        weight[9] = 0.0
        batch = {"x": torch.randn(12, 3), "weight": weight}
        return Subject(
            nn.Linear(3, 1), [batch], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1)
        )

    found = hunt(made(), 1, Path("run"))
    assert found.judgement.findings[0].op == "aten.div"
    samples = shrink(load(Path("run")), made()).capsule.samples or ()
    assert 9 in samples
    assert len(samples) == 2


def test_ctrl_c_keeps_the_smallest_set_so_far() -> None:
    hunt(subject_of(batches(5, size=16)), 5, Path("run"))

    def say(left: int, tries: int) -> None:
        if left <= 8:
            raise KeyboardInterrupt

    shrunk = shrink(load(Path("run")), subject_of(batches(5, size=16)), say)
    assert shrunk.interrupted
    assert 5 in (shrunk.capsule.samples or ())


def test_what_does_not_fail_and_what_cannot_be_cut_is_said() -> None:
    hunt(subject_of(batches(1)), 5, Path("run"))
    capsule = load(Path("run"))
    capsule.batch["weight"].nan_to_num_(1.0)
    with pytest.raises(RequestError, match="`capsule` does not fail here"):
        shrink(capsule, subject_of(batches(1)))
    capsule.batch["weight"] = torch.full((3, 1), float("nan"))
    with pytest.raises(RequestError, match="cannot be cut into samples"):
        shrink(capsule, subject_of(batches(1)))


def test_the_run_of_a_capsule_says_what_it_was(file: Path) -> None:
    assert status("hunt", f"{file}:subject", "--out", "run") == 1
    assert status("replay", "run", "--out", "again") == 1
    settings = Run(Path("again")).facts["settings"]
    assert (settings["part"], settings["capsule"]) == ("replay", "run")
