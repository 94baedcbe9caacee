"""`python -m model train | sparc | evaluate | show`: the specimen's own command.

Without a command it trains, so that the log's own line does:
`python -m model --shuffle=True --tiny_dataset=True --max_turn=1`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from model.config import Config
from model.faults import Faults
from model.options import takes_fields_of, value_of
from probes.errors import RequestError


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class OnPoison(StrEnum):
    """What the watch does with a step that is not finite."""

    RAISE = "raise"
    SKIP = "skip"
    ALLOW = "allow"


class Split(StrEnum):
    """Which file of a folder."""

    TRAIN = "train"
    DEV = "dev"


Data = Annotated[
    Path | None,
    typer.Option(
        help="A file or folder in the form of SParC, CoSQL, Spider or EditSQL; by default the "
        "corpus of the specimen, or what the checkpoint was trained on.",
        show_default=False,
    ),
]
Tables = Annotated[
    Path | None,
    typer.Option(help="Its tables.json; by default looked for near it.", show_default=False),
]
SplitOf = Annotated[Split, typer.Option(help="Which file, where `--data` is a folder.")]
Skip = Annotated[
    str,
    typer.Option(
        "--skip_unparsed", metavar="true|false", help="Leave out turns whose SQL does not parse."
    ),
]
On = Annotated[Device, typer.Option(help="auto takes cuda where there is one.")]
Place = Annotated[Path, typer.Argument(help="A checkpoint, or a run folder: its newest one.")]


@takes_fields_of(Config, "settings", "Settings: the fields of model/config.py")
@takes_fields_of(Faults, "bugs", "Planted bugs: the fields of model/faults.py")
def train(
    settings: Mapping[str, Any],
    bugs: Mapping[str, Any],
    data: Data = None,
    tables: Tables = None,
    split: SplitOf = Split.TRAIN,
    skip_unparsed: Skip = "false",
    experiment: Annotated[
        str | None,
        typer.Option(help="Start from a run of the log, by its name.", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on from a checkpoint or the newest of a run.", show_default=False),
    ] = None,
    device: On = Device.AUTO,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; must not exist.", show_default=False)
    ] = None,
    on_poison: Annotated[
        OnPoison, typer.Option("--on_poison", help="Stop, drop such steps, or let them write.")
    ] = OnPoison.RAISE,
    save_every: Annotated[
        int, typer.Option("--save_every", min=0, help="Steps between checkpoints; 0: at the end.")
    ] = 500,
    measure_every: Annotated[
        int, typer.Option("--measure_every", min=0, help="Steps between measures; 0: at the end.")
    ] = 50,
) -> None:
    """Train the specimen; Ctrl-C saves a whole checkpoint, `--resume` goes on to the bit."""
    from model import session
    from model.source import given
    from model.start import changed, start
    from model.trainer import Habits

    source = given(data, tables, split.value, _truth(skip_unparsed))
    begun = changed(start(experiment, resume), settings, bugs, source)
    habits = Habits(save_every, measure_every, on_poison.value)
    raise typer.Exit(session.train(begun, device.value, out, habits))


@takes_fields_of(Config, "settings", "Settings: the fields of model/config.py")
def sparc(
    settings: Mapping[str, Any],
    data: Annotated[
        Path, typer.Option(help="The folder with SParC as EditSQL prepared it.", show_default=False)
    ],
    device: On = Device.AUTO,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; `runs/sparc-seedN` by default.")
    ] = None,
) -> None:
    """Train on SParC, or go on with it, measure on dev, and add a row to model/results.csv.

    Settings that are not given are those of model/sparc.py.
    """
    from model.sparc import sparc

    raise typer.Exit(sparc(data, out, settings, device.value))


def evaluate(
    checkpoint: Place,
    data: Data = None,
    tables: Tables = None,
    split: SplitOf = Split.TRAIN,
    skip_unparsed: Skip = "false",
    device: On = Device.AUTO,
) -> None:
    """Print every accuracy with its count, under the gold prefix and of greedy decoding."""
    from model import session
    from model.source import given

    source = given(data, tables, split.value, _truth(skip_unparsed))
    session.evaluate_checkpoint(checkpoint, source, device.value)


def show(
    index: Annotated[int, typer.Argument(help="The interaction's place in its file.")] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Print what this checkpoint writes, too.", show_default=False),
    ] = None,
    data: Data = None,
    tables: Tables = None,
    split: SplitOf = Split.TRAIN,
    skip_unparsed: Skip = "false",
    device: On = Device.AUTO,
) -> None:
    """Print an interaction: utterances, SQL, its steps, and the units of its database."""
    from model import session
    from model.source import given

    source = given(data, tables, split.value, _truth(skip_unparsed))
    session.show(index, checkpoint, source, device.value)


COMMANDS = (train, sparc, evaluate, show)


def _truth(text: str) -> bool:
    try:
        return bool(value_of(bool, text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--skip_unparsed") from None


def app() -> typer.Typer:
    """The command line of the commands."""
    made = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Train, evaluate and show the specimen. Without a command it trains.",
    )
    made.callback()(lambda: None)
    for command in COMMANDS:
        made.command()(command)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """The command has run; a wrong request ends with its sentence and status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0].startswith("-") and words[0] != "--help":
        words.insert(0, train.__name__)
    try:
        app()(words, prog_name="python -m model")
    except RequestError as error:
        print(f"model: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
