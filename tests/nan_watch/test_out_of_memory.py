"""A step that runs out of memory is a finding: where, what filled it, and what grew."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch
from nan_watch.hunt import hunt
from nan_watch.out_of_memory.exhaustion import Exhaustions, in_words
from nan_watch.out_of_memory.tally import Tally, given
from probes import Finding
from probes.raised import is_out_of_memory
from probes.run import Run
from probes.subject import load_subject

SICK = f"{Path(__file__).parents[1] / 'cases' / 'MEM001' / 'sick.py'}:subject"
MIB = 2**20


@contextmanager
def room(size: int) -> Iterator[None]:
    """The process may take no more than so many bytes of address space besides."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def value(finding: Finding, what: str) -> Any:
    return next(each.value for each in finding.evidence if each.what == what)


def test_a_hunt_tells_the_operator_what_filled_memory_and_what_grew() -> None:
    subject = load_subject(SICK, seed=0)
    found = hunt(subject, 10)
    (finding,) = found.judgement.findings
    assert (finding.code, finding.step, finding.site) == ("MEM001", 2, "attention")
    assert (finding.op, finding.phase) == ("aten._softmax", "forward")
    assert (finding.source or "").endswith("sick.py:41")
    assert "206.30 MiB were asked for" in finding.message
    assert "`x` went from (8, 64, 4) to (8, 2600, 4)" in finding.message
    assert value(finding, "alive at the peak: attention (forward)") == 8 * 2600 * 2600 * 4
    assert any("aten.bmm in attention" in each.what for each in finding.evidence)
    assert Run(found.folder).steps.tolist() == [0, 1]


class Greedy(torch.autograd.Function):
    """Takes memory in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.ones(500 * MIB // 4)[0]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        self.greedy = True

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.head(Greedy.apply(hidden) if self.greedy else hidden)


def trained(model: nn.Module, through_step: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).sum()
        with room(200 * MIB):
            loss.backward()
        optimizer.step()
        return loss

    with NanWatch(model, optimizer, out="run") as watch:
        watch.step(step) if through_step else step()


@pytest.mark.parametrize("through_step", [True, False])
def test_memory_that_ends_in_the_backward_pass(through_step: bool) -> None:
    model = Model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        trained(model, through_step)
    assert all(map(torch.equal, before, model.parameters()))
    (finding,) = Run(Path("run")).judgement.findings
    assert (finding.code, finding.step, finding.phase) == ("MEM001", 0, "backward")
    assert "500.00 MiB were asked for" in finding.message
    assert ("by site" in [each.what for each in finding.evidence]) is not through_step
    if through_step:
        assert finding.op == "aten.ones"
        assert value(finding, "alive at the peak: parameters") == (16 + 4 + 4 + 1) * 4
    assert (finding.source or "").partition(":")[0].endswith("test_out_of_memory.py")


def test_a_loop_that_goes_on_after_it_keeps_the_first_and_stays_watched() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).sum()
        with room(200 * MIB):
            loss.backward()
        optimizer.step()
        return loss

    with NanWatch(model, optimizer) as watch:
        for model.greedy in (False, True, True, False):
            with suppress(RuntimeError):
                watch.step(step)
    found = [each for each in watch.findings if each.code == "MEM001"]
    assert [each.step for each in found] == [1]
    assert watch.steps == 2
    assert watch.run.complete


def test_no_other_error_is_taken_for_it() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(ValueError("out of memory"))
    model = nn.Linear(2, 2)
    with (
        pytest.raises(RuntimeError, match="shapes"),
        NanWatch(model, torch.optim.SGD(model.parameters(), 0.1)) as watch,
    ):
        watch.step(lambda: model(torch.ones(3, 3)))
    assert "out_of_memory" not in watch.run.facts["settings"]


def test_the_message_of_cuda_is_read() -> None:
    model = nn.Linear(2, 2)
    known = Exhaustions(model, torch.optim.SGD(model.parameters(), 0.1))
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")
    told = known.told(error, 7, None)
    assert (told.asked, told.step, told.site) == ("2.50 GiB", 7, "<loss>")
    assert told.not_replayed == "the step was not handed to `watch.step`"


def test_a_tally_counts_what_lives_and_no_more() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    x = torch.randn(256, 64)
    optimizer = torch.optim.Adam(model.parameters())
    tally = Tally(model, given(model, optimizer, [x]))
    start = tally.peak.size
    assert start == 4 * (x.numel() + sum(p.numel() for p in model.parameters()))
    with tally:
        for _ in range(3):  # what an iteration made is gone before the next
            model(x).sum().backward()
            optimizer.zero_grad()
    assert tally.peak.failed is None
    hidden = 256 * 64 * 4
    assert 2 * hidden <= tally.peak.size - start <= 5 * hidden
    assert tally.peak.by_site["1", "forward"] == hidden
    assert tally.peak.by_site["batch", None] == hidden
    assert [piece.size for piece in tally.peak.largest[:2]] == [hidden, hidden]
    assert any(phase == "backward" for _, phase in tally.peak.by_site)


def test_bytes_in_words() -> None:
    assert [in_words(n) for n in (12, 2048, 3 * MIB, 2**41)] == [
        "12 bytes",
        "2.00 KiB",
        "3.00 MiB",
        "2048.00 GiB",
    ]


@pytest.mark.parametrize(
    "command", ["hunt", pytest.param("diagnose --quick --sizes 5", marks=pytest.mark.slow)]
)
def test_a_command_finds_it_in_the_first_batch(command: str, whynan: Any, tmp_path: Path) -> None:
    text = Path(SICK.rpartition(":")[0]).read_text()
    (tmp_path / "train.py").write_text(text.replace("(64, 64, 2600)", "(2600, 64)"))
    name, *options = command.split()
    done = whynan(name, "train.py:subject", *options, "--out", "run")
    assert done.returncode == 1, done.stderr
    findings = json.loads((tmp_path / "run" / "findings.json").read_text())["findings"]
    (found,) = (each for each in findings if each["code"] == "MEM001")
    assert (found["step"], found["source"]) == (0, "train.py:41")
    assert (tmp_path / "run" / "report.html").is_file()
