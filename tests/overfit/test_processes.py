from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probes.command import main
from probes.run import Run

Whynan = Callable[..., "subprocess.CompletedProcess[str]"]

SUBJECT = """
import os, time
from pathlib import Path

import torch
from torch import nn

from probes import Ratio, Subject

calls = []

def loss(model, batch):
    calls.append(1)
    {during}
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])

def right(model, batch):
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))

def subject():
    x, y = torch.randn(24, 8), torch.randint(0, 3, (24,))
    return Subject(
        nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
        [{{"x": x[i : i + 8], "y": y[i : i + 8]}} for i in range(0, 24, 8)],
        loss,
        lambda model: torch.optim.Adam(model.parameters(), lr={lr}),
        metrics={{"class": right}},
    )
"""


def write(folder: Path, during: str = "pass", lr: float = 0.02) -> None:
    (folder / "train.py").write_text(SUBJECT.format(during=during, lr=lr))


def gone(pid: int, within: float = 20.0) -> bool:
    """Whether the process ends in time; one that waits to be cleared away has ended."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def start(folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).with_name("whynan"), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def await_steps(process: subprocess.Popen[str], folder: Path, parts: int, steps: int) -> None:
    """That many suites have written that many steps."""
    end = time.monotonic() + 300  # the machine may have other work
    while time.monotonic() < end and process.poll() is None:
        sizes = [path.stat().st_size for path in folder.glob("parts/*/readings/steps.i64")]
        if sum(size >= 8 * steps for size in sizes) >= parts:
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no {parts} suites of {steps} steps: {process.communicate()[1]}")


def test_suites_run_side_by_side_and_their_prints_stay_out_of_the_answer(
    tmp_path: Path, whynan: Whynan
) -> None:
    write(tmp_path, during="print('chatter', os.getpid()) if len(calls) > 25 else None")
    done = whynan("train.py:subject", "--quick", "--seed", "1", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "run: run"
    assert done.stdout.count("FIT001 memorised") == 2
    record = Run(tmp_path / "run")
    parts = dict(record.parts)
    assert record.complete
    assert sorted(parts) == ["check", "hunt", "overfit-20-seed1", "overfit-5-seed1"]
    assert record.facts["settings"]["first_step"]["samples"] == 8
    assert [each.code for each in record.judgement.findings] == ["FIT001", "FIT001"]
    assert "NAN000" in record.judgement.passed
    assert [each.code for each in parts["overfit-5-seed1"].judgement.findings] == ["FIT001"]
    five, twenty = (
        set(parts[f"overfit-{size}-seed1"].facts["settings"]["samples"]) for size in (5, 20)
    )
    assert five < twenty
    spoken = [path.read_text() for path in (tmp_path / "run" / "output").iterdir()]
    assert len({text.split()[1] for text in spoken}) == 2  # two processes
    assert json.loads((tmp_path / "run" / "findings.json").read_text())["verdict"] == "note"
    assert (tmp_path / "run" / "report.html").is_file()


def test_ctrl_c_ends_the_children_and_keeps_what_is_done(tmp_path: Path) -> None:
    write(tmp_path, during="time.sleep(0.02); Path(str(os.getpid())).touch()", lr=1e-5)
    process = start(tmp_path, "overfit", "train.py:subject", "--out", "run", "--steps", "100000")
    await_steps(process, tmp_path / "run", parts=2, steps=9)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "whynan: stopping .." in errors
    assert "ended by Ctrl-C" in out
    assert "Cut off before they were done: overfit-5-seed0, overfit-20-seed0." in out
    again = "overfit train.py:subject --out run --steps 100000 --resume"
    assert f"Go on with `whynan {again}`." in out
    assert "verdict: ok so far (interrupted)" in out
    assert out.splitlines()[-1] == "run: run"
    children = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert len(children - {process.pid}) == 2
    assert all(gone(pid) for pid in children)
    record = Run(tmp_path / "run")
    assert not record.complete
    assert (tmp_path / "run" / "report.html").is_file()
    for _, part in record.parts:
        assert len(part.steps) >= 3
        assert part.readings("loss", "value").value.notna().all()
    why = [each.why for each in record.judgement.not_judged if each.code == "FIT001"]
    assert len(why) == 2
    assert all("was cut off after" in each for each in why)


def complete(folder: Path) -> bool:
    return (folder / "run.json").is_file() and Run(folder).complete


@pytest.mark.slow
def test_a_run_that_was_interrupted_is_gone_on_with(
    tmp_path: Path,
    whynan: Whynan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(
        tmp_path, during="time.sleep(0.2 if Path('slow').exists() and len(batch['y']) > 5 else 0)"
    )
    (tmp_path / "slow").touch()
    asked = ("overfit", "train.py:subject", "--out", "run")
    process = start(tmp_path, *asked, "--jobs", "2")
    five, twenty = (tmp_path / "run" / "parts" / f"overfit-{n}-seed0" for n in (5, 20))
    end = time.monotonic() + 300  # the machine may have other work
    while time.monotonic() < end and not (complete(five) and (twenty / "run.json").is_file()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert not Run(twenty).complete
    kept = (five / "run.json").stat().st_mtime_ns
    (tmp_path / "slow").unlink()
    monkeypatch.chdir(tmp_path)
    for refused, said in [
        ((*asked, "--resume", "--steps", "7"), "with `run`, whose `steps` was 400, not 7"),
        (("overfit", "train.py:subject", "--resume"), "`--resume` was given without `--out`"),
    ]:
        with pytest.raises(SystemExit) as end:
            main([*refused])
        assert end.value.code == 2
        assert said in capsys.readouterr().err
    done = whynan(*asked, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FIT001 memorised") == 2
    assert (five / "run.json").stat().st_mtime_ns == kept
    assert Run(tmp_path / "run").complete
    assert Run(twenty).complete


def ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it runs with `&`


@pytest.mark.slow
def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    write(tmp_path, during="time.sleep(0.02); Path(str(os.getpid())).touch()", lr=1e-9)
    process = start(
        tmp_path,
        *("overfit", "train.py:subject", "--sizes", "5", "--out", "run", "--steps", "100000"),
        preexec_fn=ignore_ctrl_c,  # the harder case: a child must not inherit its deaf ear
    )
    await_steps(process, tmp_path / "run", parts=1, steps=9)
    process.kill()
    process.communicate(timeout=300)
    children = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert len(children - {process.pid}) == 1
    assert all(gone(pid) for pid in children)


def test_a_child_that_dies_is_a_finding(tmp_path: Path, whynan: Whynan) -> None:
    dies = "print('so long', flush=True); os.kill(os.getpid(), 9)"
    (tmp_path / "train.py").write_text(
        SUBJECT.format(during="die()", lr=0.02) + f"\ndef die():\n    if len(calls) == 9: {dies}\n"
    )
    done = whynan("overfit", "train.py:subject", "--sizes", "5", "--out", "run")
    assert done.returncode == 1, done.stderr
    (finding,) = Run(tmp_path / "run").judgement.findings
    assert finding.code == "FIT005"
    assert "its process was killed by SIGKILL" in finding.message
    assert "its last words: so long" in finding.message
    assert "died after 8 of 400 steps" in finding.message


def test_a_size_larger_than_the_data_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, whynan: Whynan
) -> None:
    write(tmp_path)
    done = whynan("diagnose", "train.py:subject", "--sizes", "5,50")
    assert done.returncode == 2
    assert "`--sizes` asks for 50, but `Subject.batches` holds 24 samples" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["train.py"]


@pytest.mark.slow  # the sentence itself is tested in test_heads.py
def test_what_a_child_finds_wrong_ends_the_run_with_its_sentence(
    tmp_path: Path, whynan: Whynan
) -> None:
    write(tmp_path)
    text = (tmp_path / "train.py").read_text()
    text = text.replace("return Ratio(", "return (lambda hits, count: hits / count)(")
    (tmp_path / "train.py").write_text(text)
    done = whynan("overfit", "train.py:subject", "--sizes", "5", "--out", "other")
    assert done.returncode == 2
    assert "`Subject.metrics['class']` returned a tensor of shape ()" in done.stderr
    assert "Traceback" not in done.stderr
