"""Late NaNs: a hunt from a checkpoint, what it keeps, the debugger, and the seeded re-run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch.hunt import hunt
from nan_watch.rerun.kept import kept_folders, load_start, oldest_since
from nan_watch.rerun.resume import resume
from nan_watch.rerun.run import rerun
from probes import Subject
from probes.command import main
from probes.errors import RequestError

POISON = 7  # the batch that is NaN, of ten

SUBJECT = """
import torch
from torch import nn
from probes import Subject


def loss(model, batch):
    hidden = model(batch["x"])
    return (hidden.square().sum(-1) / batch["weight"]).mean()


def backward_loss(model, batch):
    hidden = model(batch["x"]) * batch["weight"][:, None]
    size = hidden.square().sum(-1).sqrt()
    return size.mean()


def made(loss, ones=1.0):
    torch.manual_seed(0)
    batches = [{"x": torch.randn(4, 3), "weight": torch.ones(4)} for _ in range(4)]
    batches[2]["weight"][1] = 0.0
    adam = lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    return Subject(nn.Linear(3, 2), batches, loss, adam)


def forward():
    return made(loss)


def backward():
    return made(backward_loss)
"""


def late(lr: float = 0.01, width: int = 3, poison: int | None = POISON) -> Subject:
    """Ten batches, one of which is NaN; the model has a dropout and a schedule."""
    torch.manual_seed(0)
    chance = torch.Generator().manual_seed(0)
    batches = [{"x": torch.randn(4, 3, generator=chance), "weight": 1.0} for _ in range(10)]
    if poison is not None:
        batches[poison]["weight"] = float("nan")

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(batch["x"]).square().mean() * batch["weight"]

    return Subject(
        nn.Sequential(nn.Linear(3, width), nn.Dropout(0.2), nn.Linear(width, 2)),
        batches,
        loss,
        lambda m: torch.optim.Adam(m.parameters(), lr=lr),
        schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.9),
    )


def status(*words: str) -> int:
    """The command's exit status, in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


# --- from a checkpoint ---------------------------------------------------------------------------


def weights_of(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.state_dict().values()]


def wrapped(state: dict[str, Tensor], kind: str) -> Any:
    if kind == "trainer":
        return {"model": {f"module.{name}": x for name, x in state.items()}, "epoch": 3}
    return state


@pytest.mark.parametrize("kind", ["safetensors", "bare", "trainer"])
def test_weights_of_the_usual_files_are_loaded(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(5)
    trained = nn.Linear(3, 2)
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    if kind == "safetensors":
        save_file(dict(trained.state_dict()), path)
    else:
        torch.save(wrapped(dict(trained.state_dict()), kind), path)
    model = nn.Linear(3, 2)
    found = resume(path, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert (found.name, found.step, found.whole) == (path.name, None, False)
    assert all(map(torch.equal, weights_of(model), weights_of(trained)))


def test_weights_that_are_tied_and_written_once_are_loaded(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    torch.save({"embedding.weight": torch.ones(5, 3)}, tmp_path / "model.pt")
    model = Tied()
    resume(tmp_path / "model.pt", model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.head.weight, torch.ones(5, 3))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, r"`weight` is \(2, 4\) there, but"),
        ({"weight": torch.ones(2, 3)}, "`bias` is not in it"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "bias.extra": torch.ones(1)},
            "`bias.extra` is in it, but not in the model",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(state: Any, said: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "model.pt")
    model = nn.Linear(3, 2)
    with pytest.raises(RequestError, match=said):
        resume(tmp_path / "model.pt", model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_wrong_checkpoint_ends_the_command_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text(SUBJECT)
    torch.save({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, "model.pt")
    assert status("hunt", "train.py:forward", "--from", "model.pt", "--out", "run") == 2
    assert not Path("run").exists()
    assert "`weight` is (2, 4) there, but the model has (2, 3)" in capsys.readouterr().err
    assert status("hunt", "train.py:forward", "--from", "nowhere.pt") == 2
    assert status("hunt", "train.py:forward", "--pdb", "--on-poison", "skip") == 2
    assert "`--pdb` stops at the first finding" in capsys.readouterr().err


def test_the_batch_and_the_rate_of_the_first_step_are_those_of_its_number() -> None:
    made: list[torch.optim.Optimizer] = []

    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        made.append(optimizer)
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)

    found = hunt(replace(late(), schedule=schedule), 20, Path("run"), start_step=25)
    finding = found.judgement.findings[0]
    assert (finding.step, finding.batch, found.steps) == (27, POISON, 3)
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**27)
    whole = hunt(late(), 20, Path("whole"), start_step=POISON)
    assert (whole.steps, whole.judgement.findings[0].step) == (1, POISON)


def test_a_hunt_from_a_snapshot_goes_on_to_the_bit() -> None:
    whole = late(poison=None)
    hunt(whole, 10, Path("whole"), keep_every=4)
    assert [each.name for each in kept_folders(Path("whole"))] == [
        "step-000000",
        "step-000004",
        "step-000008",
    ]
    rest = late(poison=None)
    found = hunt(rest, 6, Path("rest"), checkpoint=Path("whole/kept/step-000004"))
    assert found.resumed is not None
    assert (found.resumed.step, found.resumed.whole) == (4, True)
    assert all(map(torch.equal, weights_of(rest.model), weights_of(whole.model)))


def test_only_the_newest_three_snapshots_stay_and_the_one_before_a_step_is_found() -> None:
    hunt(late(poison=None), 10, Path("run"), keep_every=2)
    names = [each.name for each in kept_folders(Path("run"))]
    assert names == ["step-000004", "step-000006", "step-000008"]
    found = oldest_since(Path("run"), 5)
    assert found is not None
    assert found.step == 6
    assert oldest_since(Path("run"), 9) is None
    with pytest.raises(RequestError, match="holds no snapshot"):
        load_start(Path("run"))


def test_a_hunt_goes_on_from_the_capsule_of_another() -> None:
    first = hunt(late(), 20, Path("run"))
    assert first.judgement.findings[0].step == POISON
    found = hunt(late(), 20, Path("again"), checkpoint=Path("run/capsule"))
    assert (found.steps, found.judgement.findings[0].step) == (1, POISON)


# --- the debugger --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line", "word"),
    [
        ("forward", '(hidden.square().sum(-1) / batch["weight"])', "before aten.div at train.py:"),
        ("backward", "size = hidden.square().sum(-1).sqrt()", "before the line whose derivative"),
    ],
)
def test_pdb_stops_in_the_users_frame(name: str, line: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SUBJECT)
    whynan = str(Path(sys.executable).with_name("whynan"))
    done = subprocess.run(
        [whynan, "hunt", f"train.py:{name}", "--out", "run", "--pdb"],
        cwd=tmp_path,
        env=os.environ,
        input='p 1+1\np batch["weight"].tolist()\nc\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(f"stopped {word}")
    assert line in done.stdout
    assert "(Pdb) 2\n" in done.stdout
    assert "(Pdb) [1.0, 0.0, 1.0, 1.0]\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "run: run"


def test_the_sentinel_may_be_asked_for(tmp_path: Path) -> None:
    from probes.run import Run

    (tmp_path / "train.py").write_text(SUBJECT)
    assert status("hunt", "train.py:forward", "--out", "run", "--tier", "sentinel") == 1
    run = Run(Path("run"))
    assert {row["kind"] for row in run.sites} == {"loss", "param_grad", "update"}
    assert run.judgement.findings[0].op == "aten.div"


# --- the seeded re-run ---------------------------------------------------------------------------

DIVERGING = """
import torch
from torch import nn
from probes import Subject


def loss(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean()


def subject(lr=1e3):
    x = torch.randn(16, 3)
    batches = [{"x": x, "y": x.sum(1, keepdim=True)}]
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=lr)
    return Subject(nn.Linear(3, 1), batches, loss, sgd)
"""


@pytest.fixture
def diverging(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text(DIVERGING)
    return "train.py:subject"


def test_a_smaller_step_is_shown_to_be_the_cure_of_a_step_too_large(diverging: str) -> None:
    assert status("hunt", diverging, "--out", "run", "--keep-every", "2") == 1
    from probes.run import Run

    step = Run(Path("run")).judgement.findings[0].step
    assert step is not None
    assert step > 2
    assert not rerun(diverging, 0, None, step + 1, 1.0)
    assert rerun(diverging, 0, None, step + 1, 1e-4)
    assert not rerun(diverging, 0, None, step + 1, 0.5), "half of it is still too large"


def test_a_re_run_from_a_snapshot_starts_at_its_step_with_the_smaller_rate(diverging: str) -> None:
    assert status("hunt", diverging, "--out", "run", "--steps", "3", "--keep-every", "1") == 1
    start = load_start(Path("run/kept/step-000001"))
    assert rerun(diverging, 0, None, 12, 1e-4, start)
    assert not rerun(diverging, 0, None, 12, 1.0, start)
    late_start = load_start(Path("run/kept/step-000002"))
    assert not rerun(diverging, 0, None, 2, 1e-4, late_start), "no step was taken"


def test_a_subject_that_is_an_object_is_copied_and_batches_that_end_show_nothing() -> None:
    subject = late(lr=0.01)
    before = weights_of(subject.model)
    assert rerun(subject, 0, None, POISON, 1.0)
    assert not rerun(subject, 0, None, POISON + 1, 1e-3), "a NaN in the data is no step too large"
    assert all(map(torch.equal, before, weights_of(subject.model)))
    once = replace(subject, batches=iter(list(late(poison=None).batches)))
    assert not rerun(once, 0, None, 11, 1.0)
