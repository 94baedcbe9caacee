"""The `whynan` command: its frame, the common options, and what it gathers from every package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from probes.advice import meant, spans_of
from probes.errors import RequestError
from probes.finding import Judgement
from probes.progress import announce
from probes.warned import warned_once

if TYPE_CHECKING:
    from probes.subject import Subject


def _seed(value: int) -> int:
    if not -(2**63) <= value < 2**64:  # as torch takes them
        raise typer.BadParameter("a seed lies from -2**63 to 2**64 - 1.")
    return value


Address = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="FILE.py:NAME or package.module:NAME.")
]
Out = Annotated[
    Path | None, typer.Option(help="The run folder itself; must not exist.", show_default=False)
]
Seed = Annotated[
    int,
    typer.Option(callback=_seed, help="Seeds python, numpy and torch before the subject loads."),
]
Device = Annotated[
    str | None,
    typer.Option(help="Moves model and batches there, such as cuda.", show_default=False),
]
Shares = Annotated[
    int,
    typer.Option(
        "--jobs",
        min=1,
        help="How many commands you run at the same time: this one takes its share of the cores.",
    ),
]

Codes = Annotated[str, typer.Option("--only", help="Codes of checks, with commas between.")]

DEFAULT_COMMAND = "diagnose"


def explain(
    code: Annotated[
        str, typer.Argument(help="A rule's code or name, such as FIT001 or memorised.")
    ],
) -> None:
    """Print a rule: what it looks for, a sick and a healthy example, its limits."""
    rules = gather("whynan.rules")
    rule = next((each for each in rules if code.upper() in (each.code, each.rule.upper())), None)
    if rule is None:
        raise RequestError(
            f"`{code}` is no rule's code or name."
            f"{meant(code, (name for each in rules for name in (each.code, each.rule)))} "
            f"The codes are {spans_of(each.code for each in rules) or 'none'}."
        )
    print(f"{rule.code} {rule.rule}\n\n{told(rule)}")
    for name, value in limits_of(rule):
        print(f"\nlimit {name} = {value}", end="")
    print()


def told(rule: Any) -> str:
    """What the rule says of itself: what it looks for, a sick and a healthy example."""
    from inspect import cleandoc

    return cleandoc(rule.__doc__ or "")


def limits_of(rule: Any) -> list[tuple[str, Any]]:
    """The names and values of the rule's limits."""
    from dataclasses import fields

    return [(limit.name, getattr(rule, limit.name)) for limit in fields(rule)]


def check(
    subject: Annotated[
        str | None, typer.Argument(metavar="SUBJECT", help="FILE.py:NAME or package.module:NAME.")
    ] = None,
    only: Codes = "",
    skip: Annotated[str, typer.Option(help="Checks to leave out, with commas between.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="Print the checks, and run none.")] = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Experiment with masks, indices, labels, state and wiring: bugs that never give a NaN."""
    from inspect import cleandoc

    from probes.checking import chosen, record

    checks = chosen(_split(only), _split(skip))
    if list_:
        for each in checks:
            print(f"{each.code} {each.rule}: {cleandoc(each.__doc__ or '').splitlines()[0]}")
        return
    if subject is None:
        raise RequestError("`check` was given no subject: name one, such as `train.py:subject`.")
    folder, judgement = record(subject, checks, out, seed, device)
    for why in judgement.not_judged if only else ():  # else the report says why
        print(f"not judged {why.code}: {why.why}")
    finish(folder, judgement)


def _split(codes: str) -> list[str]:
    return [code.strip() for code in codes.split(",") if code.strip()]


COMMANDS: tuple[Callable[..., None], ...] = (explain, check)


def gather(group: str) -> list[Any]:
    """The entries of every tuple that a package lists under this entry-point group, in order.

    A stranger's package that cannot be loaded is named on standard error and left out.
    """
    found: list[Any] = []
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            found += point.load()
        except Exception as error:
            owner = point.dist.name if point.dist else "an unknown package"
            if owner == "whynan":
                raise
            told = f"`{point.value}` of {owner} cannot be loaded"
            print(f"whynan: {told}: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command has run; a wrong request ends with its sentence and status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    address = next((word for word in words if ":" in word and not word.startswith("-")), None)
    if address is not None:
        announce(f"loading {address}")  # torch itself takes seconds
    try:
        commands = gather("whynan.commands")
        if _names_no_command(words):
            words.insert(0, DEFAULT_COMMAND)
        elif words and _is_place(words[0]):
            from probes.subject import split_address

            split_address(words[0])  # which refuses it: it names no subject
        with warned_once():
            app(commands)(words)
    except RequestError as error:
        print(f"whynan: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _names_no_command(words: Sequence[str]) -> bool:
    """Whether an address comes first, be it after options, where a command was to stand."""
    addresses = [word for word in words if ":" in word and not word.startswith("-")]
    return bool(addresses) and (words[0].startswith("-") or words[0] == addresses[0])


def _is_place(word: str) -> bool:
    """Whether it is a file or a module, where a command was to stand."""
    return not word.startswith("-") and (word.endswith(".py") or "." in word)


def _version(asked: bool) -> None:
    if asked:
        from probes.record import environment

        versions = environment()["versions"]
        print(", ".join(f"{name} {versions[name]}" for name in sorted(versions, key=_ours_first)))
        raise typer.Exit


def _ours_first(name: str) -> tuple[bool, str]:
    return name != "whynan", name


def _frame(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions.")
    ] = False,
) -> None:
    """What stands before the command."""


def app(commands: Iterable[Callable[..., None]]) -> typer.Typer:
    """The command line of these functions: a function's name is its command, its docstring help."""
    made = typer.Typer(
        name="whynan",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Say why a PyTorch trainer does not train. `whynan train.py:subject` is "
        "`whynan diagnose train.py:subject`.",
    )
    made.callback()(_frame)
    for command in commands:
        made.command()(command)
    return made


def prepare(address: str, seed: int, device: str | None) -> Subject:
    """The subject, seeded and loaded, on the device where one is named; its batches can be re-read.

    Raises RequestError where the device is not there.
    """
    from probes.reread import reread
    from probes.subject import load_subject

    subject = reread(load_subject(address, seed))
    return subject if device is None else on_device(subject, device)


def share_cores(jobs: int) -> None:
    """Torch takes its share of the cores, where several commands run side by side."""
    import torch

    if jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def on_device(subject: Subject, device: str) -> Subject:
    """The subject with its model on the device and every batch moved there as it is read."""
    from dataclasses import replace

    from probes.batch import Moved

    check_device(device)
    subject.model.to(device)
    moved = replace(subject, batches=Moved(subject.batches, device))
    if subject.eval_batches is not None:
        moved = replace(moved, eval_batches=Moved(subject.eval_batches, device))
    return moved


def check_device(device: str) -> None:
    """The device is known to torch and there. Raises RequestError where it is not."""
    import torch

    from probes.raised import said

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise RequestError(
            f"`--device {device}` is no device of torch: name cpu, cuda or cuda:0."
        ) from error
    count = torch.cuda.device_count() if wanted.type == "cuda" else 1
    if (wanted.index or 0) >= count:
        raise RequestError(
            f"`--device {device}` was asked for, but torch finds {count} CUDA devices here: run "
            "with `--device cpu`, or install a torch that was built for CUDA."
        )
    try:
        torch.zeros(1, device=wanted).tolist()
    except Exception as error:  # each backend has its own
        raise RequestError(
            f"`--device {device}` was asked for, but torch cannot compute there ({said(error)}): "
            "run with `--device cpu`."
        ) from error


def finish(
    folder: Path, judgement: Judgement, report: Path | None = None, interrupted: bool = False
) -> NoReturn:
    """Findings, report and run folder are told, and the command ends with the right status."""
    from probes.interrupts import INTERRUPTED
    from probes.terminal import say

    say(judgement, interrupted)
    print(f"for the report run `whynan render {folder}`" if report is None else f"report: {report}")
    done(folder, judgement.exit_status or (INTERRUPTED if interrupted else 0))


def done(folder: Path, status: int = 0) -> NoReturn:
    """`run: PATH` is the last line of standard output, and the command ends with the status."""
    print(f"run: {folder}", flush=True)
    raise typer.Exit(status)
