from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from probes.chunks import NOT_SEEN, fold, seen
from probes.errors import RequestError
from probes.record import Recorder, new_folder
from probes.run import Run


def test_what_is_written_is_read_and_a_missing_number_stays_missing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", seed=3, device="cpu", settings={"sizes": [5, 20]})
    recorder.column("param_grad", "a")
    recorder.column("param_grad", "b")
    recorder.write(0, {("param_grad", "norm"): [1.0, NOT_SEEN]})
    recorder.write(1, {("param_grad", "norm"): [np.nan, 0.0]})
    recorder.close()
    run = Run(tmp_path / "run")
    assert run.complete
    assert (run.facts["seed"], run.facts["device"]) == (3, "cpu")
    frame = run.readings()
    assert list(frame.columns) == ["step", "tick", "site", "kind", "stat", "value"]
    assert list(zip(frame.step, frame.site, strict=True)) == [(0, "a"), (1, "a"), (1, "b")]
    assert np.isnan(frame.value[1])
    assert frame.value[2] == 0.0


def test_a_site_that_comes_late_was_not_seen_before(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.values(0, "loss", "value", {"<loss>": 2.0})
    recorder.values(1, "loss", "value", {"<loss>": 1.0, "key": 0.5})
    matrix = Run(tmp_path / "run").matrix("loss", "value")
    assert matrix.sites == ("<loss>", "key")
    np.testing.assert_array_equal(matrix.seen, [[True, False], [True, True]])


def test_a_second_row_of_a_step_with_a_new_site_is_kept(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.values(0, "loss", "value", {"<loss>": 2.0})
    recorder.values(0, "loss", "value", {"key": 0.5})
    recorder.close(complete=False)
    run = Run(tmp_path / "run")
    assert not run.complete
    frame = run.readings("loss")
    assert list(zip(frame.step, frame.site, frame.value, strict=True)) == [
        (0, "<loss>", 2.0),
        (0, "key", 0.5),
    ]


def test_a_run_that_is_not_closed_is_incomplete_and_a_torn_row_is_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    for step in range(3):
        recorder.values(step, "loss", "value", {"<loss>": float(step)})
    chunk = next((tmp_path / "run").rglob("*.f32"))
    with chunk.open("ab") as file:
        file.write(b"\x03\x00\x00\x00\x00")  # a row cut in half
    with (tmp_path / "run" / "sites.jsonl").open("a") as file:
        file.write('{"kind": "los')
    run = Run(tmp_path / "run")
    assert not run.complete
    assert list(run.matrix("loss", "value").steps) == [0, 1, 2]


def test_a_killed_process_leaves_whole_steps(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from probes.record import Recorder
        recorder = Recorder(Path({str(tmp_path / "run")!r}))
        sites = {{f"site{{i}}": float(i) for i in range(200)}}
        step = 0
        while True:
            for site in sites:
                recorder.column("a", site), recorder.column("b", site)
            recorder.write(step, {{("a", "x"): list(sites.values()), ("b", "y"): [step] * 200}})
            step += 1
            if step == 50:
                print("go", flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    run = Run(tmp_path / "run")
    assert not run.complete
    first, second = run.matrix("a", "x"), run.matrix("b", "y")
    np.testing.assert_array_equal(first.steps, np.arange(len(first.steps)))
    np.testing.assert_array_equal(first.steps, second.steps)
    assert len(first.steps) >= 50
    np.testing.assert_array_equal(second.values[:, 7], second.steps)


def test_the_budget_holds_over_100_000_steps_of_1_000_sites(tmp_path: Path) -> None:
    budget = 24 * 2**20
    recorder = Recorder(tmp_path / "run", budget=budget)
    for site in range(1000):
        recorder.column("g", f"site{site}")
    row = np.ones(1000, np.float32)
    for step in range(100_000):
        row[0] = step
        row[3] = np.nan if step == 50_001 else 1.0
        row[4] = 7.0 if step == 60_000 else 1.0
        recorder.write(step, {("g", "norm"): row})
    readings = (tmp_path / "run" / "readings" / "g.norm").glob("*")
    assert sum(path.stat().st_size for path in readings) <= budget
    matrix = Run(tmp_path / "run").matrix("g", "norm")
    assert matrix.steps[0] == 0
    assert np.all(np.diff(matrix.steps) == matrix.folded[:-1])
    assert matrix.steps[-1] + matrix.folded[-1] == 100_000
    assert np.all(matrix.folded[-300:] == 1), "the newest steps are whole"
    np.testing.assert_array_equal(matrix.values[:, 0], matrix.steps + matrix.folded - 1)
    bad = np.flatnonzero(np.isnan(matrix.values[:, 3]))
    assert len(bad) == 1
    assert matrix.steps[bad[0]] <= 50_001 < matrix.steps[bad[0]] + matrix.folded[bad[0]]
    assert np.nanmax(matrix.values[:, 4]) == 7.0


def test_folding_keeps_the_largest_and_nan_is_largest() -> None:
    steps = np.arange(6, dtype=np.int32).view(np.float32)
    values = np.array([1, 3, np.nan, 2, NOT_SEEN, NOT_SEEN], np.float32)
    folded = fold(np.stack([steps, values], axis=1))
    assert list(folded[:, 0].copy().view(np.int32)) == [0, 2, 4]
    assert folded[0, 1] == 3
    assert np.isnan(folded[1, 1])
    assert list(seen(folded[:, 1].copy())) == [True, True, False]


def test_arrays_keep_their_axes_and_labels(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    weights = np.random.default_rng(0).random((2, 3))
    recorder.array("attention-0", weights, ("token", "unit"), {"token": ["a", "b"]}, layer=1)
    run = Run(tmp_path / "run")
    assert run.arrays == ["attention-0"]
    array = run.array("attention-0")
    np.testing.assert_array_equal(array.values, weights)
    assert (array.axes, array.labels, array.about) == (
        ("token", "unit"),
        {"token": ["a", "b"]},
        {"layer": 1},
    )
    with pytest.raises(ValueError, match="array `x` has 2 axes, but 1 are named"):
        recorder.array("x", weights, ("token",))


def test_parts_are_runs_of_their_own(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    part = recorder.part("overfit-5-seed0", seed=0, settings={"part": "suite", "size": 5})
    part.values(0, "loss", "value", {"<loss>": 1.0})
    part.close()
    [(name, run)] = Run(tmp_path / "run").parts
    assert name == "overfit-5-seed0"
    assert run.complete
    assert run.facts["settings"]["size"] == 5


def test_an_out_folder_that_exists_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="exists already, and a run never overwrites another"):
        new_folder(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_out_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        new_folder(tmp_path / "file" / "out")


def test_default_folders_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {new_folder() for _ in range(4)}
    assert len(folders) == 4
    assert all(folder.parent.name == "runs" for folder in folders)


def test_a_folder_without_a_run_and_a_newer_schema_are_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a run folder: it holds no"):
        Run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(RequestError, match="has schema 99, but this version of whynan reads up to"):
        Run(tmp_path)


def test_run_json_is_strict_and_says_what_a_number_hangs_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", seed=1, limits={"FIT001.share": float("inf")})
    recorder.close()
    facts = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    named = {"versions", "seed", "device", "CUDA_VISIBLE_DEVICES", "command", "settings", "limits"}
    assert named | {"complete"} <= set(facts)
    assert facts["limits"] == {"FIT001.share": None, "nonfinite": "inf"}
    assert facts["versions"]["torch"].startswith("2.")
