"""The watch around models on a CUDA device, with its fused kernels; skipped where there is none."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from probes import Subject
from probes.command import on_device
from probes.finding import Finding

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
WIDTH, TOKENS, SAMPLES, STEPS = 32, 12, 8, 40


class Reader(nn.Module):
    """An embedding, attention under a mask, cuDNN's LSTM, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH, padding_idx=0)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(2 * WIDTH, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.attention(x, x, x, key_padding_mask=ids == 0, need_weights=False)[0]
        return self.head(self.drop(self.lstm(x)[0]))  # (sample, token, tag)


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        ids = torch.randint(1, 50, (SAMPLES, TOKENS), generator=chance)
        ids[::2, TOKENS // 2 :] = 0
        made.append((ids.cuda(), (ids % 5).cuda()))
    return made


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


@pytest.fixture
def reader() -> nn.Module:
    torch.manual_seed(0)
    return Reader().cuda()


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every kernel gives the same bits again."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def trained(
    model: nn.Module, half: torch.dtype | None, watched: bool, folder: Path
) -> list[Tensor]:
    """Parameters, what the optimizer keeps and the random state after a loop of the user's own."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", enabled=half is torch.float16)
    torch.manual_seed(7)

    def loop() -> None:
        for step in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast("cuda", half, enabled=half is not None):
                loss = loss_of(model, batches()[step % 4])
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

    if watched:
        with NanWatch(model, optimizer, out=folder) as watch:
            loop()
        assert [f for f in watch.findings if f.verdict.rank > 1] == []
    else:
        loop()
    kept = [v for state in optimizer.state.values() for v in state.values()]
    return [*model.parameters(), *kept, torch.cuda.get_rng_state(), torch.get_rng_state()]


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("repeatable")
def test_watching_changes_no_bit(
    half: torch.dtype | None, reader: nn.Module, tmp_path: Path
) -> None:
    twin = copy.deepcopy(reader)
    bare = trained(reader, half, False, tmp_path)
    seen = trained(twin, half, True, tmp_path / "run")
    assert len(bare) == len(seen)
    assert all(map(torch.equal, bare, seen))


def test_the_host_waits_once_a_step_and_in_the_optimizer_alone(
    reader: nn.Module, tmp_path: Path
) -> None:
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, fused=True)
    data = batches()
    waits = []
    with NanWatch(reader, optimizer, out=tmp_path / "run"):
        for step in range(10):
            try:
                torch.cuda.set_sync_debug_mode("error")
                loss_of(reader, data[step % 4]).backward()
                torch.cuda.set_sync_debug_mode("warn")
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    optimizer.step()
                waits.append([str(each.message) for each in caught])
            finally:
                torch.cuda.set_sync_debug_mode("default")
            optimizer.zero_grad()
    assert [len(each) for each in waits[1:]] == [1] * 9, waits


class Probabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids)).mul(300).softmax(-1).log()  # planted


def found(work: Callable[[], object]) -> Finding:
    with pytest.raises(PoisonedStep) as raised:
        work()
    return raised.value.finding


def stepped(model: nn.Module, loss: Callable[[], Tensor], **settings: Any) -> Finding:
    """What the watch says of the first step that it refuses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        with NanWatch(model, optimizer, **settings) as watch:
            for _ in range(3):
                watch.step(lambda: one(watch))

    def one(watch: NanWatch) -> None:
        optimizer.zero_grad()
        watch.backward(loss())
        optimizer.step()

    return found(loop)


def test_the_log_of_a_softmax_is_named_and_its_patch_cures_it() -> None:
    torch.manual_seed(0)
    model, (ids, tags) = Probabilities().cuda(), batches()[0]
    finding = stepped(model, lambda: F.nll_loss(model(ids).flatten(0, 1), tags.flatten()))
    assert (finding.code, finding.op, finding.confirmed) == ("NAN001", "aten.log", True)
    assert finding.source is not None
    line = int(finding.source.rpartition(":")[2])
    assert Path(__file__).read_text().splitlines()[line - 1].endswith("# planted")


def test_inside_cudnns_recurrence_the_time_and_the_sample_are_named() -> None:
    torch.manual_seed(0)
    rnn = nn.RNN(4, 4, batch_first=True, nonlinearity="relu")
    model = nn.ModuleDict({"rnn": rnn, "head": nn.Linear(4, 2)}).cuda()
    x = torch.rand(5, 6, 4, device="cuda")
    x[:3], x[4:] = -1.0, -1.0
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(1.0)
        rnn.weight_hh_l0.fill_(1e15)

    def loss() -> Tensor:
        return model["head"](model["rnn"](x)[0]).square().mean()

    finding = stepped(model, loss)
    assert (finding.site or "").startswith("rnn")
    # 1, 4e15, 1.6e31, and past the range at the fourth step
    assert (finding.where.get("time"), finding.where.get("sample")) == (3, 3), finding


def test_a_skipped_step_of_the_scaler_is_told_apart_from_a_poisoned_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    x = torch.randn(16, 8, device="cuda")
    with NanWatch(model, optimizer, out=tmp_path / "run") as watch:
        for _ in range(40):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = model(x).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert [f for f in watch.findings if f.verdict.rank > 1] == []


def test_an_overflow_of_half_precision_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"up": nn.Linear(8, 64), "down": nn.Linear(64, 2)}).cuda()
    x = torch.randn(16, 8, device="cuda") * 3e3

    def loss() -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return model["down"](model["up"](x).square()).float().mean()

    finding = stepped(model, loss, out=tmp_path / "run")
    assert finding.op == "aten._to_copy"  # autocast squares in float32, and narrows for `down`


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_is_watched_and_its_birth_named(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Probabilities().cuda()
    ids, tags = batches()[0]
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        with NanWatch(compiled, optimizer, out=tmp_path / "run") as watch:
            for _ in range(3):
                optimizer.zero_grad()
                watch.backward(F.nll_loss(compiled(ids).flatten(0, 1), tags.flatten()))
                optimizer.step()

    finding = found(loop)
    assert finding.op == "aten.log"


def test_a_capsule_of_the_device_comes_again_there_and_on_the_processor(
    tmp_path: Path, whynan: Any
) -> None:
    (tmp_path / "train.py").write_text(
        "import torch\nfrom torch import nn\nfrom probes import Subject\n\n"
        "def loss(model, batch):\n"
        "    p = model(batch['x']).mul(200).softmax(-1)\n"
        "    return -p.log()[:, 0].mean()\n\n"
        "def subject():\n"
        "    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))\n"
        "    return Subject(model, [{'x': torch.randn(6, 4)} for _ in range(3)], loss,\n"
        "                   lambda m: torch.optim.Adam(m.parameters(), lr=0.01))\n"
    )
    done = whynan("hunt", "train.py:subject", "--device", "cuda", "--out", "hunt")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NAN001" in done.stdout
    for device in ("cuda", "cpu"):
        again = whynan("replay", "hunt/capsule", "--device", device, "--out", device)
        assert again.returncode == 1, again.stdout + again.stderr
        assert "NAN001" in again.stdout


def test_memory_that_ends_on_the_device_is_a_finding_with_what_filled_it() -> None:
    model = nn.ModuleDict({"body": nn.Linear(1024, 1024), "head": nn.Linear(1024, 1)}).cuda()

    def loss(model: Any, batch: Any) -> Tensor:
        x = model["body"](batch["x"])
        wide = x.unsqueeze(1) * x.unsqueeze(0)
        return model["head"](wide.expand(4096, *wide.shape).contiguous()).mean()

    subject = Subject(
        model, [{"x": torch.randn(512, 1024)}], loss, lambda m: torch.optim.SGD(m.parameters(), 0.1)
    )
    judgement = hunt(on_device(subject, "cuda"), 3).judgement
    assert judgement.findings[0].code == "MEM001", judgement.findings
    assert "aten." in (judgement.findings[0].op or "")


def test_an_assert_on_the_device_stays_the_error_that_is_raised(tmp_path: Path) -> None:
    """After it nothing can be read there: the watch ends with the user's own error."""
    code = f"""
import torch
from torch import nn
from nan_watch import NanWatch
model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 1)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with NanWatch(model, optimizer, out={str(tmp_path / "run")!r}):
    for step in range(3):
        model(torch.full((4,), 8 + step, device="cuda")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()
    assert "device-side assert" in done.stderr, last[-5:]
    assert not any("nan_watch" in line and "Error" in line for line in last), last
    assert (tmp_path / "run" / "run.json").is_file()
