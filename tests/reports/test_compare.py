from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.command import main
from probes.errors import RequestError
from probes.finding import Finding, Judgement, Verdict
from probes.record import Recorder
from reports.comparison import compare
from reports.render import compared


def run(folder: Path, seed: int = 0, steps: int = 6, odd: int | None = None, **asked: Any) -> Path:
    """A run of so many steps, whose `late` output is another from step `odd` on."""
    recorder = Recorder(folder, seed=seed, settings={"lr": 0.1, **asked})
    recorder.column("loss", "<loss>")  # seen before the outputs, as the watch has it
    for site in ("early", "late"):
        recorder.column("output", site)
    for step in range(steps):
        changed = float(odd is not None and step >= odd)
        outputs = np.array([1.0, 2.0 + changed])
        loss = np.array([np.exp(-step) + seed / 100 + changed])
        recorder.write(step, {("output", "abs_max"): outputs, ("loss", "value"): loss})
    finding = Finding("NAN001", "log-of-zero", Verdict.FAIL, "log of 0.", "Keep it off zero.")
    recorder.close(Judgement((finding,) if odd is not None else (), passed=("NAN002",)))
    return folder


def test_the_same_computation_is_called_so(tmp_path: Path) -> None:
    found = compare([run(tmp_path / "a"), run(tmp_path / "b")])
    assert found.headline.startswith("Same computation")
    assert found.partings[0].words == (
        "`a` and `b`: same computation, 6 steps are equal to the bit."
    )
    assert found.differ == ()


def test_the_first_step_that_parts_names_what_was_computed_first(tmp_path: Path) -> None:
    found = compare([run(tmp_path / "a"), run(tmp_path / "b", odd=4, lr=0.2)])
    assert found.headline == (
        "`a` and `b` part at step 4: the largest absolute value in the output of `late` is 2 and 3."
    )
    assert found.differ == (("lr", ("0.1", "0.2")),)
    text = compared(found)
    assert "fail: log of 0." in text
    assert text.count("<figure") == 1
    assert compared(found) == text


def test_a_run_that_goes_on_is_no_other_computation(tmp_path: Path) -> None:
    found = compare([run(tmp_path / "a", steps=3), run(tmp_path / "b")])
    assert found.headline == (
        "`a` and `b`: 3 steps are equal to the bit; then `b` goes on for 3 more."
    )
    nothing = compare([run(tmp_path / "c", steps=0), run(tmp_path / "d")])
    assert nothing.headline == "`c` and `d` have no step in common."


def test_other_subjects_and_a_run_that_was_cut_off_are_told_first(tmp_path: Path) -> None:
    whole = Recorder(tmp_path / "a", settings={"subject": "a.py:subject"})
    whole.close(Judgement())
    cut = Recorder(tmp_path / "b", settings={"subject": "b.py:subject"})
    cut.note(interrupted=True, not_begun=["hunt"], first_step={"shapes": {"x": [2, 3]}})
    cut.close(Judgement(), complete=False)
    found = compare([tmp_path / "a", tmp_path / "b"])
    assert found.headline == (
        "These are runs of different subjects: `a.py:subject` in `a`, `b.py:subject` in `b`."
    )
    assert found.unfinished == ("`b` was interrupted: it lacks hunt.",)
    assert ("shape of `x` in the first batch", ("", "2, 3")) in found.differ
    assert "was interrupted: it lacks hunt" in compared(found)


def test_a_change_is_held_against_the_spread_of_seeds(tmp_path: Path) -> None:
    seeds = [run(tmp_path / f"s{seed}", seed) for seed in range(3)]
    within = compare([*seeds, run(tmp_path / "w", 1, lr=0.2)])
    assert within.spread[0] == "`s0`, `s1`, `s2` differ by their seed alone."
    assert "lies within the spread of seeds" in within.spread[1]
    outside = compare([*seeds, run(tmp_path / "o", 1, odd=0, lr=0.2)])
    assert "lies outside of the spread of seeds" in outside.spread[1]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    pair = [run(tmp_path / "x" / "run"), run(tmp_path / "y" / "run")]
    assert compare(pair).names == ("x/run", "y/run")
    assert compare([pair[0], pair[0]]).names == ("run", "run (2)")


def test_compare_and_index_are_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b", odd=1)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(one), str(other), "--out", str(tmp_path / "c")])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("`a` and `b` part at step 1")
    assert lines[-2:] == [f"report: {tmp_path / 'c' / 'report.html'}", f"run: {tmp_path / 'c'}"]
    text = (tmp_path / "c" / "report.html").read_text()
    with pytest.raises(SystemExit) as end:
        main(["render", str(tmp_path / "c")])
    assert end.value.code == 0
    assert (tmp_path / "c" / "report.html").read_text() == text
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["index", str(tmp_path)])
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"run: {tmp_path}"
    text = (tmp_path / "index.html").read_text()
    assert "Failing: 1, not judged: 1, nothing found: 1" in text
    assert 'href="c/report.html"' in text
    assert text.count('class="spark"') == 2


def test_what_cannot_be_compared_or_listed_is_a_sentence(tmp_path: Path) -> None:
    from reports.index_page import rows

    with pytest.raises(RequestError, match="was given one run"):
        compare([run(tmp_path / "a")])
    with pytest.raises(RequestError, match="holds no run"):
        rows(tmp_path / "a" / "readings")
    with pytest.raises(RequestError, match="is no folder"):
        rows(tmp_path / "nowhere")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"schema": 99}')
    torn = {row.name: row for row in rows(tmp_path)}["torn"]
    assert (torn.word, torn.remark) == ("Not judged", "cannot be read")
