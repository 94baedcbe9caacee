"""Scalars for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Scalars(Protocol):
    """Takes named numbers of a step."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers stand under their names at this step."""

    def close(self) -> None:
        """Everything is written."""


class Nowhere:
    """Takes scalars and keeps none, because TensorBoard is not installed."""

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing was open."""


class TensorBoard:
    """Writes event files into a folder; what an earlier run wrote from this step on is void."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """One scalar a name."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """The event file is flushed and closed."""
        self._writer.close()


def scalars(folder: Path, start: int) -> Scalars:
    """TensorBoard's event files in the folder, from step `start` on; nothing without it."""
    try:
        return TensorBoard(folder, start)
    except ImportError:
        return Nowhere()
