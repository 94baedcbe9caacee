"""Records of runs that never ran, as real ones look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probes.finding import Evidence, Finding, Judgement, NotJudged, Verdict
from probes.record import Recorder
from reports import render

STEPS, PARAMETERS = 200, 60


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diagnosis with suites of 5 and 20, 200 steps, 60 parameters, and attention, rendered."""
    recorder = Recorder(
        tmp_path_factory.mktemp("main") / "run",
        seed=0,
        device="cpu",
        settings={"part": "diagnosis"},
    )
    for size in (20, 5):
        part = suite(recorder, size)
        if size == 20:
            for place in range(40):
                attention(part, place)
        part.close()
    evidence = Evidence("loss", float("nan"), 1.0, "nats", 151, anchor="overfit-20-seed0")
    findings = (
        Finding(
            code="NAN000",
            rule="unknown-origin",
            verdict=Verdict.FAIL,
            message="`decoder.sql_cell` gave NaN first, at step 151.",
            fix="Run `whynan replay` on the capsule.",
            site="decoder.sql_cell[0]",
            step=151,
            where={"turn": 1},
            evidence=(evidence, Evidence("elsewhere", 1, anchor="nowhere")),
        ),
        Finding("FIT001", "memorised", Verdict.NOTE, "5 samples memorised.", "Go on."),
        Finding("FIT001", "memorised", Verdict.NOTE, "20 samples memorised.", "Go on."),
    )
    recorder.close(Judgement(findings, (NotJudged("FIT003", "no loss"),), ("FIT004",)))
    render(recorder.folder)
    return recorder.folder


def suite(recorder: Recorder, size: int, steps: int = STEPS) -> Recorder:
    """A suite's part, left open."""
    rng = np.random.default_rng(size)
    settings = {"part": "suite", "size": size, "seed": 0, "steps": steps, "unit": "samples"}
    part = recorder.part(f"overfit-{size}-seed0", settings=settings)
    for place in range(PARAMETERS):
        part.column("param_grad", f"encoder.layer.{place}.attention.self.query.weight")
    for site in ("<loss>", "key", "db"):
        part.column("loss", site)
    for step in range(steps):
        norms = 10 ** rng.normal(-2, 1, PARAMETERS)
        norms[1] = 0
        if size == 20 and step > 150:
            norms[30:35] = np.nan
        loss = 5 * np.exp(-step / 40)
        part.write(
            step, {("param_grad", "norm"): norms, ("loss", "value"): [loss, loss / 2, loss / 3]}
        )
        if step % 10 == 0:
            right = min(size, size * step // 100)
            part.values(step, "metric", "hits", {"string": right, "token": right * 9})
            part.values(step, "metric", "count", {"string": size, "token": size * 9})
    return part


def attention(part: Recorder, place: int, **changes: object) -> None:
    """A map of 4 heads, 16 steps and 30 units, the last two of them padding."""
    rng = np.random.default_rng(place)
    weights = rng.random((4, 16, 30)).astype(np.float32) ** 6
    weights[:, :, 28:] = 0
    weights /= weights.sum(-1, keepdims=True)
    about: dict[str, object] = {
        "kind": "attention",
        "site": "decoder.attend_units",
        "layer": 0,
        "call": 0,
        "sample": place // 4,
        "sample_name": f"interaction {place // 4}",
        "row": f"turn {place % 4}",
        "queries": [f"step{step}" for step in range(16)],
        "keys": [f"table.column{unit}" for unit in range(30)],
        "padding": [False] * 28 + [True] * 2,
        "hidden": [False] * 28 + [True] * 2,
        "masked_rows": [False] * 16,
    }
    part.array(
        f"attention-{place:03d}",
        changes.pop("weights", weights),  # type: ignore[arg-type]
        ("head", "time", "unit"),
        {"head": list("0123")},
        **(about | changes),
    )
