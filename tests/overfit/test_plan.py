from __future__ import annotations

import json
from pathlib import Path

import pytest

from overfit.asked import Asked
from overfit.child import Job
from overfit.engine import most_threads
from overfit.plan import Plan, check_sizes, parse_sizes
from probes.errors import RequestError


def test_sizes_are_read_in_rising_order() -> None:
    assert parse_sizes("5,20") == (5, 20)
    assert parse_sizes("20, 5") == (5, 20)


@pytest.mark.parametrize("text", ["", "five", "5,,20", "0,5", "-5", "5,5", "5.0"])
def test_malformed_sizes_are_refused(text: str) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_sizes(text)
    assert str(refusal.value) == (
        f"`--sizes {text}` names no sizes: different whole numbers of samples from 1 up were "
        "expected, with commas between them, such as `--sizes 5,20`."
    )


def test_sizes_from_python_are_named_as_they_were_given() -> None:
    with pytest.raises(RequestError, match=r"`sizes=\(\)` names no sizes"):
        check_sizes((), "sizes=()")


def test_a_job_crosses_to_another_process_as_one_line() -> None:
    job = Job("train.py:subject", "cpu", 2, Path("runs/a/parts/b"), Plan(5, (5, 20), seed=3))
    assert job.line().count("\n") == 1
    assert Job.read(json.loads(job.line())) == job
    tried = Job("a:b", None, 1, Path("runs/a"), Plan(5, (5,), kind="try", changed=("a", "b")))
    assert Job.read(json.loads(tried.line())) == tried
    assert tried.plan.name == "overfit-5-seed0-why-a-and-b"


@pytest.mark.parametrize(
    ("said", "threads"), [(None, 8), ("1", 1), ("2,1", 2), ("16", 8), ("0", 8), ("all", 8)]
)
def test_a_job_takes_no_more_threads_than_openmp_is_told(
    said: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert most_threads(8) == threads


def test_quick_looks_less_often_and_the_largest_suite_starts_first() -> None:
    whole, quick = Asked((5, 20)).plans(), Asked((5, 20), quick=True).plans()
    assert [plan.size for plan in quick] == [20, 5]
    assert [plan.attention for plan in quick] == [True, False]
    assert [plan.name.removeprefix("overfit-") for plan in whole] == [
        *("20-seed0", "5-seed0", "20-seed0-blind", "5-seed0-blind", "5-seed1", "5-seed2"),
    ]
    assert quick[0].every > whole[0].every
    assert quick[0].in_a_row < whole[0].in_a_row
