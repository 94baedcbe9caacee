"""`whynan bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.errors import RequestError

if TYPE_CHECKING:
    from nan_watch.bench.measured import Measured

File = Annotated[Path, typer.Option("--out", help="The file that is written, anew each time.")]
Names = Annotated[
    str,
    typer.Option(
        help="What to measure on, of minilm, specimen, layers, compiled, ddp, trainer; with commas "
        "between."
    ),
]
Seconds = Annotated[float, typer.Option(min=0, help="Seconds for each of them at most.")]
Pairs = Annotated[int, typer.Option(min=1, help="Pairs for each of them at most.")]
Repeats = Annotated[
    int, typer.Option("--memory", min=0, help="Processes a tool for peak memory; 0 leaves it out.")
]
On = Annotated[str, typer.Option("--device", help="Where the models are measured, such as cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="Cores that torch may use.")]


def bench(
    on: Names = "minilm,specimen,layers,compiled,ddp,trainer",
    seconds: Seconds = 240,
    pairs: Pairs = 4000,
    memory: Repeats = 3,
    threads: Threads = 1,
    device: On = "cpu",
    out: File = Path("runs/bench.json"),
) -> None:
    """Measure what a watch costs, beside other tools: time a step, and peak memory.

    Each tool's step stands between two bare ones of the same model, in random order, until the
    medians of whynan's own rows are known to half a percent, and what counts of a watch are its
    steps after the first 64, whose cost is that of all others. With one thread, which is the
    default, it is the processor's time that counts: others who use it do not blur the numbers.
    On CUDA it is the wall's, of eight steps in a row with one wait at the end, and peak memory is
    the device's.
    Ctrl-C keeps what is measured.
    """
    import torch

    from nan_watch.bench.measured import Measured
    from nan_watch.bench.trainers import TRAINERS
    from nan_watch.bench.workloads import WORKLOADS
    from probes import strict_json
    from probes.command import check_device, done
    from probes.progress import progress

    names = chosen(on, [each.name for each in (*WORKLOADS, *TRAINERS)])
    workloads = [each for each in WORKLOADS if each.name in names]
    trainers = [each for each in TRAINERS if each.name in names]
    check_device(device)
    writable(out)
    torch.set_num_threads(threads)
    measured = Measured(device=device)

    def keep(complete: bool = False) -> None:
        measured.complete = complete
        strict_json.write(out, measured.as_json())

    with progress() as shown:
        try:
            if workloads:
                measured.take_memory(workloads[0], memory, threads, shown)
            for each in workloads:
                keep()  # what is there outlives a kill
                measured.take_steps(each, pairs, seconds, shown)
            for trainer in trainers:
                keep()
                measured.take_trainer(trainer, pairs, seconds, shown)
            keep(complete=True)
        except KeyboardInterrupt:
            keep()
    tell(measured)
    done(out)


def tell(measured: Measured) -> None:
    """The tables stand on the screen, and why what is missing in them is missing."""
    from nan_watch.bench.table import TRAINERS, footnotes, memory_table, steps_table
    from probes.terminal import console

    screen = console()
    if not measured.complete:
        screen.print("ended by Ctrl-C; what was measured until then is kept")
    if measured.steps:
        screen.print(steps_table(measured.steps))
    if measured.trainers:
        screen.print(steps_table(measured.trainers, TRAINERS))
    if measured.memory is not None:
        screen.print(memory_table(measured.memory))
    for line in footnotes(measured.rows()):
        screen.print(line, markup=False)


def chosen(asked: str, known: Sequence[str]) -> list[str]:
    """The names that are asked for, in their own order. Raises RequestError where one is none."""
    wanted = [name.strip() for name in asked.split(",")]
    for name in wanted:
        if name not in known:
            raise RequestError(
                f"`--on {name}` is nothing to measure on: choose among {', '.join(known)}."
            )
    return [each for each in known if each in wanted]


def writable(out: Path) -> None:
    """The file's folder is there. Raises RequestError where the file cannot be written."""
    if out.is_dir():
        raise RequestError(
            f"`{out}` is a folder, but a file was expected: `--out {out / 'bench.json'}`."
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"`{out.parent}` cannot be written ({error.strerror}): name a file that you may write "
            "by `--out`."
        ) from error
