from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from model.__main__ import app, main
from model.checkpoint import latest, whole
from model.config import Config
from model.faults import Faults
from probes.run import Run

SMALL = ["--bert_width=16", "--bert_layers=1", "--bert_heads=2", "--width=16", "--vocabulary=300"]
LOG = ["--shuffle=True", "--tiny_dataset=True", "--max_turn=1"]  # the log's own line


def run(*arguments: str) -> int:
    """The command's exit status."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def trained(out: Path, *more: str) -> Path:
    """A small checkpoint of one step."""
    assert run("train", *SMALL, "--tiny_dataset=3", "--steps=1", f"--out={out}", *more) == 0
    return latest(out).folder


def test_the_logs_own_line_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*LOG, *SMALL, "--steps=1", f"--out={tmp_path / 'run'}") == 0
    said = capsys.readouterr().out
    assert "training: 20 interactions over" in said
    checkpoint = latest(tmp_path / "run")
    assert said.splitlines()[-1] == f"checkpoint: {checkpoint.folder}"
    config = checkpoint.about["config"]
    assert (config["shuffle"], config["tiny_dataset"], config["max_turn"]) == (True, True, 1)


@pytest.mark.slow
def test_the_logs_own_line_to_the_letter(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "model", *LOG]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads would wait for other tests' threads
    done = subprocess.run(
        line, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.splitlines()[-1].removeprefix("checkpoint: "))
    assert (tmp_path / place / "model.safetensors").is_file()
    assert re.search(r"^  string +1\.000 \(20 of 20\)$", done.stdout, re.MULTILINE)


def test_every_field_is_an_option() -> None:
    command = get_command(app()).commands["train"]  # type: ignore[attr-defined]
    there = {option for each in command.params for option in each.opts}
    for name in [each.name for settings in (Config, Faults) for each in fields(settings)]:
        assert f"--{name}" in there, name


def test_without_a_word_it_tells_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() in (0, 2)  # typer's own choice, which its versions made differently
    said = capsys.readouterr()
    assert all(name in said.out + said.err for name in ("train", "evaluate", "show"))


def test_evaluate_prints_every_metric_with_its_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = trained(tmp_path / "run", "--validation=2")
    capsys.readouterr()
    assert run("evaluate", str(place)) == 0
    lines = capsys.readouterr().out.splitlines()
    for title in ("training, 3 interactions", "validation, 2 interactions"):
        at = lines.index(f"{title}, gold prefix:")
        names = [line.split()[0] for line in lines[at + 1 : at + 6]]
        assert names == ["token", "string", "key", "db", "unreachable"]
        assert all(" of " in line for line in lines[at + 1 : at + 6])
        greedy = lines[lines.index(f"{title}, greedy:") + 1 :][:2]
        assert greedy[0].startswith("  string, after gold queries")
        assert greedy[1].startswith("  string, after its own queries")
        assert greedy[0].split()[-3:] == lines[at + 2].split()[-3:]  # exact match either way


def test_evaluate_on_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = trained(tmp_path / "run")
    data = Path(__file__).parents[2] / "model/corpus/train.json"
    few = json.loads(data.read_text())[:2]
    (tmp_path / "few.json").write_text(json.dumps(few))
    tables = ("--tables", str(data.with_name("tables.json")))
    capsys.readouterr()
    assert run("evaluate", str(place), "--data", str(tmp_path / "few.json"), *tables) == 0
    said = capsys.readouterr().out
    assert "given data, 2 interactions, greedy:" in said
    assert "given data, 2 interactions, floors without the utterance:" in said


def test_show_prints_an_interaction_and_a_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", "1") == 0
    said = capsys.readouterr().out
    assert "interaction 1 over " in said
    assert "turn 0: " in said
    assert "  steps    select " in said
    assert "written" not in said
    place = trained(tmp_path / "run")
    capsys.readouterr()
    assert run("show", "1", "--checkpoint", str(place)) == 0
    said = capsys.readouterr().out
    assert said.count("  written  ") == said.count("  steps  ")


def test_resume_goes_on_in_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run")
    assert run("train", "--resume", str(tmp_path / "run"), "--steps=3") == 0
    assert [path.name for path in whole(tmp_path / "run")] == ["step-000001", "step-000003"]
    first = whole(tmp_path / "run")[0]
    assert run("train", "--resume", str(first), "--steps=3") == 2
    assert "is not the newest checkpoint of its run" in capsys.readouterr().err
    other = tmp_path / "other"
    assert run("train", "--resume", str(first), "--steps=3", f"--out={other}") == 0
    ours, theirs = (latest(place).folder / "model.safetensors" for place in (first.parent, other))
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_experiment_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [*SMALL, "--transformer_layers=1", "--steps=1", f"--out={tmp_path / 'run'}"]
    assert run("train", "--experiment", "Oct30_12-58-25", *changes) == 0
    about = latest(tmp_path / "run").about
    assert about["config"]["lr"] == 1e-5
    assert about["faults"]["misaligned"] == 1
    planted = "planted bugs: unit_index_offset, misaligned, wrong_state, padded_rows_averaged"
    assert planted in capsys.readouterr().out


def test_a_refused_step_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    sick = [*SMALL, "--tiny_dataset=20", "--softmax_then_log=True", f"--out={out}"]
    assert run("train", *sick) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "step 0 was refused: " in "\n".join(lines)
    assert lines[-1] == f"checkpoint: {out / 'step-000000'}"
    assert latest(out).position.step == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error that a wrong request gets."""
    capsys.readouterr()
    assert run(*arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("model: ")
    return line


def test_wrong_requests_get_one_sentence_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    out = f"--out={tmp_path / 'there'}"
    assert "exists already" in refused(capsys, *SMALL, "--tiny_dataset=3", "--steps=1", out)
    assert "`Oct30` is no run of the log" in refused(capsys, "train", "--experiment", "Oct30")
    missing = tmp_path / "none"
    assert "holds no checkpoint" in refused(capsys, "evaluate", str(missing))
    assert "holds no checkpoint" in refused(capsys, "train", "--resume", str(missing))
    both = ["--experiment", "30a", "--resume", str(missing)]
    assert "were both given" in refused(capsys, "train", *both)
    assert "without `--data`" in refused(capsys, "show", "--tables", str(missing))
    assert "`900` is no interaction" in refused(capsys, "show", "900")
    assert "`lr` is -1.0: expected at least 0" in refused(capsys, "train", "--lr=-1")
    tiny = ["--tiny_dataset=90", "--steps=1"]
    assert "ask for more than the 85 interactions" in refused(capsys, "train", *tiny)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    said = refused(capsys, "train", "--device", "cuda", *SMALL, f"--out={out}")
    assert "`--device cuda` was asked for, but torch finds 0 CUDA devices here" in said
    assert not out.exists()


def test_a_checkpoint_of_another_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained(tmp_path / "run") / "checkpoint.json"
    path.write_text(path.read_text().replace('"width": 16', '"width": 24'))
    said = refused(capsys, "evaluate", str(path.parent))
    assert "is a checkpoint of another shape: `" in said
    assert "build the model with the settings and the data" in said


def test_a_database_that_is_not_in_the_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(__file__).parents[2] / "model/corpus/train.json"
    text = data.read_text().replace('"database_id": "podcasts"', '"database_id": "podcast"')
    (tmp_path / "train.json").write_text(text)
    tables = str(data.with_name("tables.json"))
    said = refused(capsys, "train", "--data", str(tmp_path), "--tables", tables)
    assert "database id `podcast`" in said
    assert "closest: podcasts" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shufle=True"], "No such option: --shufle"),
        (["--shuffle=perhaps"], "is not one of true|false"),
        (["--skip_unparsed=perhaps"], "is not one of true|false"),
        (["--device=tpu"], "tpu"),
        (["show", "one"], "integer"),
    ],
)
def test_wrong_options_end_with_status_2(
    arguments: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_ctrl_c_saves_a_whole_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "model", "train", *SMALL, "--tiny_dataset=3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--steps=100000", f"--out={out}", "--measure_every=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            wait_for_steps(out / "watch-000000", process)
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    lines = said.splitlines()
    saved = latest(out)
    assert lines[-1] == f"checkpoint: {saved.folder}"
    steps = saved.position.step
    assert lines[-2] == f"stopped by Ctrl-C after step {steps} of 100000"
    files = {"checkpoint.json", "model.safetensors", "training.safetensors"}
    assert {path.name for path in saved.folder.iterdir()} == files
    assert len(Run(out / "watch-000000").readings().step.unique()) == steps
    assert run("train", "--resume", str(out), f"--steps={steps + 1}") == 0
    straight = tmp_path / "straight"
    assert run(*command[3:], f"--steps={steps + 1}", f"--out={straight}", "--measure_every=0") == 0
    ours, theirs = (latest(place).folder / "model.safetensors" for place in (out, straight))
    assert ours.read_bytes() == theirs.read_bytes()


def wait_for_steps(watch: Path, process: subprocess.Popen[str]) -> None:
    """Some steps are in the record of the running process."""
    for _ in range(600):
        files = watch.glob("readings/**/*.f32")
        if any(path.stat().st_size > 0 for path in files):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    raise AssertionError("no step in two minutes")
