"""`whynan bench`: what is measured, and that it is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nan_watch.bench import trainers
from nan_watch.bench.costs import Costs, measure
from nan_watch.bench.intervals import interval
from nan_watch.bench.measured import Measured
from nan_watch.bench.memory import peak_memory
from nan_watch.bench.table import footnotes, steps_table
from nan_watch.bench.tools import TOOLS, Step, Tool
from nan_watch.bench.trainers import TRAINERS, measure_trainer
from nan_watch.bench.twins import Trainer
from nan_watch.bench.workloads import WORKLOADS, Workload
from probes import Subject
from probes.command import main
from probes.errors import RequestError
from probes.loop import Loop
from probes.terminal import console


def small() -> Subject:
    torch.manual_seed(0)
    batch = {"x": torch.randn(4, 3)}
    return Subject(
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        [batch],
        lambda model, batch: model(batch["x"]).square().mean(),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


SMALL = Workload("small", "a linear layer", small)


def slowed(seconds: float) -> Tool:
    @contextmanager
    def around(loop: Loop) -> Iterator[Step]:
        def step(batch: Any) -> None:
            loop.step(batch)
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass

        yield step

    return Tool("slowed", True, around)


def ratios(costs: Costs) -> dict[str, float | None]:
    return {row.tool: None if row.ratio is None else row.ratio.median for row in costs.rows}


def test_every_tool_is_measured_beside_bare_steps() -> None:
    rounds: list[int] = []
    costs = measure(SMALL, pairs=3, seconds=60, say=lambda done, _: rounds.append(done))
    assert [row.tool for row in costs.rows] == [tool.name for tool in TOOLS]
    pairs = {row.tool: row.ratio.pairs for row in costs.rows if row.ratio is not None}
    assert pairs == {tool.name: 3 if tool.ours else 1 for tool in TOOLS}
    assert rounds == [1, 2, 3]
    assert costs.seconds is not None
    assert costs.seconds > 0


def test_a_tool_that_takes_longer_is_seen_to_be_slower() -> None:
    costs = measure(SMALL, pairs=4, seconds=60, tools=[slowed(0.03)])
    cost = ratios(costs)["slowed"]
    assert cost is not None
    assert costs.seconds is not None
    assert cost * costs.seconds > 0.02


def test_a_tool_has_done_its_warm_steps_before_it_counts() -> None:
    calls: list[int] = []

    @contextmanager
    def around(loop: Loop) -> Iterator[Step]:
        yield lambda batch: calls.append(len(calls))

    costs = measure(SMALL, pairs=3, seconds=60, tools=[Tool("counted", True, around, warm=7)])
    assert costs.rows[0].ratio is not None
    assert costs.rows[0].ratio.pairs == 3
    assert len(calls) == 7 + 3


def test_time_bounds_the_rounds() -> None:
    costs = measure(SMALL, pairs=10**6, seconds=0, tools=[slowed(0.0)])
    assert [row.ratio.pairs for row in costs.rows if row.ratio is not None] == [1]


def test_hooks_of_one_tool_are_off_in_the_steps_of_another() -> None:
    calls: list[str] = []

    def calling(name: str) -> Tool:
        @contextmanager
        def around(loop: Loop) -> Iterator[Step]:
            handle = loop.model.register_forward_hook(lambda *_: calls.append(name))

            def step(batch: Any) -> None:
                loop.step(batch)
                calls.append(f"end {name}")

            yield step
            handle.remove()
            assert not loop.model._forward_hooks

        return Tool(name, True, around)

    measure(SMALL, pairs=2, seconds=60, tools=[calling("a"), calling("b")])
    assert len(calls) == 2 * 2 * (2 + 2)  # two rounds after two warm ones
    for call, end in zip(calls[::2], calls[1::2], strict=True):
        assert end == f"end {call}"


def test_a_tool_that_raises_is_a_row_that_says_so() -> None:
    @contextmanager
    def around(loop: Loop) -> Iterator[Step]:
        def step(batch: Any) -> None:
            raise ValueError("bool is not mine\nnor this")

        yield step

    costs = measure(SMALL, pairs=2, seconds=60, tools=[Tool("odd", False, around), slowed(0.0)])
    assert costs.rows[0].why == "raised ValueError: bool is not mine"
    assert costs.rows[1].ratio is not None
    assert footnotes(costs.rows) == ["not measured: odd: raised ValueError: bool is not mine"]


def test_a_workload_that_is_not_here_is_said_not_to_be_measured() -> None:
    def missing() -> Subject:
        raise RequestError("there is no module `model` here")

    costs = measure(Workload("specimen", "", missing), pairs=2, seconds=60)
    assert {row.why for row in costs.rows} == {"there is no module `model` here"}
    assert not costs.interrupted


def test_ctrl_c_keeps_what_is_measured() -> None:
    def stop(done: int, width: float) -> None:
        if done == 2:
            raise KeyboardInterrupt

    costs = measure(SMALL, pairs=9, seconds=60, tools=[slowed(0.0)], say=stop)
    assert costs.interrupted
    assert [row.ratio.pairs for row in costs.rows if row.ratio is not None] == [2]


def test_the_interval_holds_the_median_and_shrinks_with_more_pairs() -> None:
    chance = np.random.default_rng(1)
    few, many = (interval(np.exp(chance.normal(0, 0.05, count))) for count in (30, 3000))
    assert few.low <= few.median <= few.high
    assert many.low <= 1.0 <= many.high
    assert many.width < few.width / 5


def test_peak_memory_is_that_of_processes_of_their_own() -> None:
    layers = WORKLOADS[-1]
    memory = peak_memory(layers, repeats=1, steps=1, tools=[TOOLS[2]])
    assert memory.bare_bytes is not None
    assert memory.bare_bytes > 50 * 2**20
    assert memory.rows[0].ratio is not None
    assert 0.5 < memory.rows[0].ratio.median < 2


def test_the_table_has_80_columns_and_the_json_is_strict() -> None:
    costs = [measure(SMALL, pairs=1, seconds=60) for _ in range(3)]
    screen = console()
    with screen.capture() as captured:
        screen.print(steps_table(costs))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    text = json.dumps(Measured(costs).as_json(), allow_nan=False)
    assert {"date", "cpu", "cores", "threads", "versions", "steps"} <= set(json.loads(text))
    assert json.loads(text)["warm_up"] == {tool.name: tool.warm for tool in TOOLS}


def test_the_command_writes_its_file_and_ends_with_its_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "bench.json"
    threads = torch.get_num_threads()
    asked = ["--on", "layers", "--pairs", "1", "--memory", "0", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["bench", *asked, "--threads", str(threads)])
    assert ended.value.code == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"run: {out}"
    facts = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert facts["complete"]
    assert facts["memory"] is None
    assert [each["workload"] for each in facts["steps"]] == ["layers"]
    assert {row["ratio"]["pairs"] for row in facts["steps"][0]["rows"]} == {1}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--on", "moon"], "`--on moon` is nothing to measure on: choose among minilm"),
        (["--out", "."], "`.` is a folder, but a file was expected: `--out bench.json`"),
    ],
)
def test_a_wrong_request_ends_with_status_2(
    asked: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *asked])
    assert ended.value.code == 2
    assert said in capfd.readouterr().err


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(30000, 4), nn.Linear(4, 100)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.words(input_ids).mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels)}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_watched_trainer_is_measured_beside_bare_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(trainers, "classifier", Words)
    costs = measure_trainer(TRAINERS[-1], pairs=1, seconds=600, warm=1)
    assert [(row.tool, row.why) for row in costs.rows] == [("A/A", None), ("sites", None)]
    text = json.dumps(Measured(trainers=[costs]).as_json(), allow_nan=False)
    assert json.loads(text)["trainers"][0]["rows"][1]["ratio"]["pairs"] == 1


def test_a_trainer_that_cannot_be_had_is_a_row_that_says_why() -> None:
    def start(watched: bool, device: str) -> Any:
        raise RequestError("there is no compiler here")

    costs = measure_trainer(Trainer("odd", "", start), pairs=2, seconds=60)
    assert {row.why for row in costs.rows} == {"there is no compiler here"}


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_our_own_tools_measure_every_workload(workload: Workload) -> None:
    costs = measure(workload, pairs=1, seconds=600)
    assert all(
        row.ratio is not None for row, tool in zip(costs.rows, TOOLS, strict=True) if tool.ours
    )
