"""What is measured: a training step under each tier of the watch, and under other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from nan_watch.sampled.sampling import WHOLE
from nan_watch.watch import NanWatch, Tier
from probes.loop import Loop
from probes.subject import Batch

Step = Callable[[Batch], object]
Opened = Callable[[Loop], AbstractContextManager[Step]]

STEADY = WHOLE + 2  # steps after which a watch that is left on costs what it costs for ever


@dataclass(frozen=True, slots=True)
class Tool:
    """name: how it is called in the record. ours: whether it is a row of whynan's own.

    around: gives the loop's step with the tool around it. warm: steps with it before it counts.
    """

    name: str
    ours: bool
    around: Opened
    warm: int = 2


@contextmanager
def bare(loop: Loop) -> Iterator[Step]:
    """The step alone."""
    yield loop.step


@contextmanager
def _watched(tier: Tier, loop: Loop) -> Iterator[Step]:
    """The step as `whynan hunt` takes it: snapshot, record, norms of clipping and guard."""
    with TemporaryDirectory() as folder:
        watch = NanWatch(loop.model, loop.optimizer, tier, out=Path(folder) / "run")

        def step(batch: Batch) -> Tensor:
            layout = loop.subject.layout
            return watch.step(partial(loop.step, batch, watch), batch=batch, layout=layout)

        with watch:
            yield step


@contextmanager
def anomaly(loop: Loop) -> Iterator[Step]:
    """torch's own `set_detect_anomaly(True)`."""

    def step(batch: Batch) -> Tensor:
        with torch.autograd.set_detect_anomaly(True):
            return loop.step(batch)

    yield step


@contextmanager
def underflow_overflow(loop: Loop) -> Iterator[Step]:
    """transformers' `DebugUnderflowOverflow`; what it prints is dropped."""
    from transformers.debug_utils import DebugUnderflowOverflow

    DebugUnderflowOverflow(loop.model)

    def step(batch: Batch) -> Tensor:
        with redirect_stdout(StringIO()):
            return loop.step(batch)

    yield step


@contextmanager
def isnan_hooks(loop: Loop) -> Iterator[Step]:
    """What people write by hand: `isnan().any().item()` on the output of every module."""

    def hook(module: nn.Module, args: object, output: Any) -> None:
        for each in output if isinstance(output, tuple) else (output,):
            if isinstance(each, Tensor) and each.isnan().any().item():
                raise FloatingPointError(f"NaN in the output of {type(module).__name__}")

    with ExitStack() as hooks:
        for module in loop.model.modules():
            hooks.callback(module.register_forward_hook(hook).remove)
        yield loop.step


TOOLS = (
    Tool("A/A", True, bare),
    Tool("sentinel", True, partial(_watched, "sentinel"), STEADY),
    Tool("sites", True, partial(_watched, "sites"), STEADY),
    Tool("set_detect_anomaly", False, anomaly),
    Tool("DebugUnderflowOverflow", False, underflow_overflow),
    Tool("isnan hooks", False, isnan_hooks),
)
"""`A/A` is the step against itself: what it shows beside 1 is the noise of the measurement."""
