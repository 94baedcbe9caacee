"""`whynan autopsy`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.command import Out, finish

if TYPE_CHECKING:
    from rich.console import Console

    from nan_watch.autopsy.facts import Examined, TensorFacts

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Checkpoints in the order in which they were written: files (.safetensors, .pt, "
        ".pth, .bin, .ckpt), sharded folders, folders of checkpoints.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load pickles that hold more than tensors, which runs them.")
]

SHOWN = 5  # changes that are told


def autopsy(paths: Paths, trust: Trust = False, out: Out = None) -> None:
    """Say which tensors and rows of checkpoints are not finite, which is first, what changed."""
    from nan_watch.autopsy import autopsy as perform
    from probes.progress import progress
    from probes.terminal import console
    from reports import render

    with progress() as shown:
        bar = shown.add_task("autopsy", total=None, said="")

        def say(name: str, done: int, total: int) -> None:
            shown.update(bar, completed=done, total=total, said=name)

        found = perform(paths, out, trust=trust, say=say)
    screen = console()
    for each in found.series:
        tell(screen, each)
    finish(found.folder, found.judgement, render(found.folder))


def tell(screen: Console, each: Examined) -> None:
    """The checkpoint's sizes and its largest changes stand on the screen."""
    from rich.filesize import decimal
    from rich.text import Text

    dtypes = ", ".join(f"{count} {name}" for name, count in each.dtypes.items())
    state = f"{len(each.poisoned)} poisoned" if each.poisoned else "finite"
    screen.print(Text(f"{each.name}: {state}; {dtypes}; {decimal(each.size)}"))
    for tensor in each.changes[:SHOWN]:
        screen.print(Text(f"  {moved(tensor)}: {tensor.name}"))
    for name in sorted(each.gone)[:SHOWN]:
        screen.print(Text(f"  gone since the checkpoint before: {name}"))


def moved(tensor: TensorFacts) -> str:
    """How far the tensor is from where it was in the checkpoint before."""
    if tensor.change is None or tensor.change == math.inf:
        return "changed from zero"
    return f"changed by {tensor.change:.3g} of its norm"
