"""What the watch costs in a compiled model, in two processes, and in a Trainer, at BERT's size."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch._C._distributed_c10d import FileStore
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from nan_watch.bench.costs import Costs, Say
from nan_watch.bench.tools import STEADY
from nan_watch.bench.twins import Step, Trainer, compared, costs, measure_twins, missing
from nan_watch.bench.workloads import LABELS, SAMPLES, TOKENS
from nan_watch.watch import NanWatch
from probes.errors import RequestError

RANKS = 2
PATIENCE = 600.0  # seconds that one of two processes waits for the other


def classifier() -> nn.Module:
    """transformers' BERT of MiniLM's size, which gives its loss itself."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    config.num_labels = LABELS
    model: nn.Module = BertForSequenceClassification(config)
    return model.train()


def sample(number: int) -> dict[str, Tensor]:
    """Random tokens and a label."""
    chance = torch.Generator().manual_seed(number)
    ids = torch.randint(1000, 30000, (TOKENS,), generator=chance)
    return {"input_ids": ids, "labels": torch.tensor(number % LABELS)}


@contextmanager
def _loop(wrap: Callable[[nn.Module], nn.Module], watched: bool, device: str) -> Iterator[Step]:
    """A plain loop around what `wrap` makes of the model."""
    model = classifier().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    called = wrap(model)
    rows = [sample(number) for number in range(SAMPLES)]
    batch = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        called(**batch)["loss"].backward()
        optimizer.step()

    with ExitStack() as opened:
        if watched:
            folder = opened.enter_context(TemporaryDirectory())
            if dist.is_initialized():  # ranks write into one folder
                opened.callback(dist.barrier)
            opened.enter_context(NanWatch(called, optimizer, out=Path(folder) / "run"))
        yield step


def _compiled(model: nn.Module) -> nn.Module:
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise RequestError("`torch.compile` needs a C++ compiler, and none is here: install `g++`")
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return compiled


class _Turnstile:
    """Lets a Trainer, in a thread of its own, take one step at a time."""

    def __init__(self, train: Callable[[], object]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._ending = False
        self._error: BaseException | None = None
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, args=(train,), daemon=True)

    def _run(self, train: Callable[[], object]) -> None:
        torch.set_num_threads(self._threads)
        try:
            train()
        except BaseException as error:
            self._error = error
        finally:
            self._ending = True
            self._done.release()

    def arrived(self, control: Any) -> None:
        """The Trainer stands before a step, and waits for its turn."""
        self._done.release()
        self._go.acquire()
        control.should_training_stop = control.should_training_stop or self._ending

    def begin(self) -> None:
        """The Trainer stands before its first step."""
        self._thread.start()
        self._await()

    def step(self) -> None:
        """It stands before the next one."""
        self._go.release()
        self._await()

    def end(self) -> None:
        """The Trainer has ended."""
        self._ending = True
        self._go.release()
        self._thread.join(60)

    def _await(self) -> None:
        self._done.acquire()
        if self._error is not None:
            raise self._error


@contextmanager
def _trainer(watched: bool, device: str) -> Iterator[Step]:
    """transformers' Trainer, with the callback or without."""
    import transformers

    from nan_watch.adapters.transformers import WatchCallback

    class Pace(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            turnstile.arrived(control)

    with TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=SAMPLES,
            max_steps=10**6,
            learning_rate=1e-5,
            use_cpu=torch.device(device).type == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        callbacks = [WatchCallback(out=Path(folder) / "run")] if watched else []
        trainer = transformers.Trainer(
            classifier(),
            arguments,
            train_dataset=[sample(number) for number in range(64 * SAMPLES)],
            callbacks=[*callbacks, Pace()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        turnstile = _Turnstile(trainer.train)
        turnstile.begin()
        try:
            yield turnstile.step
        finally:
            turnstile.end()


COMPILED = Trainer(
    "compiled", "BERT of 6 layers, 384 wide, by torch.compile", partial(_loop, _compiled)
)
DDP = Trainer(
    "ddp",
    f"the same in DistributedDataParallel, {RANKS} processes on gloo; one of them is measured",
    partial(_loop, DistributedDataParallel),
)
TRAINER = Trainer("trainer", "the same in transformers' Trainer, by its callback", _trainer)
TRAINERS = (COMPILED, DDP, TRAINER)


def measure_trainer(
    trainer: Trainer,
    *,
    pairs: int,
    seconds: float,
    warm: int = STEADY,
    device: str = "cpu",
    say: Say | None = None,
) -> Costs:
    """The watch's ratio with this trainer, in this process or among several."""
    if trainer is not DDP:
        return measure_twins(
            trainer, pairs=pairs, seconds=seconds, warm=warm, device=device, say=say
        )
    if torch.device(device).type != "cpu":
        why = "two processes are measured on the CPU alone: their queues would share one device"
        return missing(trainer, why)
    with TemporaryDirectory() as folder:
        asked = (folder, pairs, seconds, warm, torch.get_num_threads())
        spawn(_rank, asked, RANKS)
        found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    return costs(DDP, found["bare"], found["ratios"])


def _rank(rank: int, folder: str, pairs: int, seconds: float, warm: int, threads: int) -> None:
    torch.set_num_threads(threads)
    store = FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", None, timedelta(seconds=PATIENCE), RANKS, rank, store)

    def agreed(over: bool) -> bool:
        told = torch.tensor([over], dtype=torch.uint8)
        dist.broadcast(told, 0)
        return bool(told)

    for bare, ratios in compared(DDP.start, pairs, seconds, warm, agreed=agreed):
        last = {"bare": bare, "ratios": ratios}
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(last), encoding="utf-8")
    dist.destroy_process_group()
