"""`whynan attention`, `render`, `index` and `compare`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.command import Address, Device, Out, Seed, Shares, done, prepare, share_cores
from probes.errors import RequestError
from reports.page import LOOKED_FOR

if TYPE_CHECKING:
    from probes.attention import AttentionMap
    from probes.record import Recorder
    from probes.subject import Batch, Subject

Layers = Annotated[
    str | None,
    typer.Option(
        help="Which attention layers to draw, such as 0,3; by default all.", show_default=False
    ),
]
Heads = Annotated[
    str | None,
    typer.Option(
        help="Which heads of each to draw, such as 0,3; by default all.", show_default=False
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


class Picture(StrEnum):
    """What an attention map is drawn as."""

    HTML = "html"
    PNG = "png"
    SVG = "svg"


def attention(
    address: Address,
    samples: Annotated[
        str | None,
        typer.Option(
            help="Which samples of the first batch to draw, such as 0,3; by default three.",
            show_default=False,
        ),
    ] = None,
    layers: Layers = None,
    heads: Heads = None,
    attribute: Annotated[
        bool,
        typer.Option(
            "--attribute", help="Attribute decisions to the inputs too, by integrated gradients."
        ),
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(help="Place of the decision in the output, such as 0,2 for turn 0, step 2."),
    ] = None,
    format_: Annotated[
        Picture, typer.Option("--format", help="The page, or a file of each map beside it.")
    ] = Picture.HTML,
    out: Out = None,
    seed: Seed = 0,
    device: Device = None,
    jobs: Shares = 1,
) -> None:
    """Draw the attention maps of a subject's first batch, padding marked."""
    from probes.attention import attention_maps, write_attention
    from probes.batch import sample_count
    from probes.first_step import first_batch
    from probes.progress import progress
    from probes.raised import asked_of_user
    from probes.record import Recorder, new_folder
    from reports import render

    asked = {
        "samples": places("--samples", samples),
        "layers": places("--layers", layers),
        "heads": places("--heads", heads),
    }
    place = places("--at", at, each_once=False)
    if place is not None and not attribute:
        raise RequestError("`--at` names a decision to attribute: give `--attribute` with it.")
    share_cores(jobs)
    subject = prepare(address, seed, device)
    batch = first_batch(subject)
    forward = subject.predict or subject.loss
    count = sample_count(batch, subject.layout)
    _check_samples(asked["samples"], count)
    with asked_of_user("`Subject.predict`" if subject.predict else "`Subject.loss`"):
        maps = attention_maps(subject.model, lambda: forward(subject.model, batch))
    _check_maps(asked, maps)
    folder = new_folder(out)
    settings = {"part": "attention", "subject": address, **asked}
    recorder = Recorder(folder, seed=seed, device=device, settings=settings)
    drawn = write_attention(recorder, subject, subject.model, batch, **asked)
    told = [_told(drawn, maps)]
    if attribute:
        with progress() as shown:
            shown.add_task("attributions", total=None, said="")
            told.append(_attributed(recorder, subject, batch, asked["samples"], place))
    recorder.close()
    print("\n".join(told))
    print(f"report: {render(folder)}")
    if format_ is not Picture.HTML:
        _pictures(folder, format_)
    done(folder)


def _told(drawn: int, maps: Sequence[AttentionMap]) -> str:
    """How many maps there are; or that there is none, and what was looked for."""
    if not drawn:
        return f"no attention was found in this model: {LOOKED_FOR}"
    several = any(map_.weights.shape[1] > 1 for map_ in maps)
    heads = ", each with its heads" if several else ""
    return f"{drawn} attention {'map' if drawn == 1 else 'maps'}{heads}"


def _attributed(
    recorder: Recorder,
    subject: Subject,
    batch: Batch,
    samples: list[int] | None,
    place: list[int] | None,
) -> str:
    """How many decisions were attributed; or why none, as the record then says as well."""
    from probes.attribution_record import write_attributions
    from probes.finding import ExperimentError

    try:
        count = len(write_attributions(recorder, subject, batch, samples or [0], place))
    except ExperimentError as why:
        recorder.note(no_attribution=str(why))
        return f"no decision was attributed: {why}"
    return f"{count} decisions attributed to what they rest on"


def _pictures(folder: Path, kind: Picture) -> None:
    """Every map of the run lies in its folder as a file."""
    from probes.run import Run
    from reports.figures.attention_file import save
    from reports.reading.attention import read_attention
    from reports.reading.stretches import stretches

    missing: list[str] = []
    for map_ in read_attention(stretches(Run(folder)), missing):
        path = folder / f"{map_.name}.{kind.value}"
        save(map_, path)
        print(f"picture: {path}")
    for words in missing:
        print(words, file=sys.stderr)


def places(option: str, words: str | None, each_once: bool = True) -> list[int] | None:
    """The numbers of `0,3`; None where nothing was asked. Raises RequestError where malformed."""
    if words is None:
        return None
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise RequestError(
            f"`{option} {words}` is no list of numbers from 0 on: write them with commas between "
            f"them, such as `{option} 0,3`."
        )
    return [int(part) for part in (dict.fromkeys(parts) if each_once else parts)]


def _check_samples(samples: Sequence[int] | None, count: int | None) -> None:
    if samples is None:
        return
    if count is None:
        raise RequestError(
            "`--samples` was given, but the first batch cannot be cut into samples: declare its "
            "sample axis in `Layout.axes`, or leave the option out."
        )
    if max(samples) >= count:
        raise RequestError(
            f"`--samples {max(samples)}` is not there: the first batch holds {count} samples, "
            f"0 to {count - 1}."
        )


def _check_maps(asked: dict[str, list[int] | None], maps: Sequence[AttentionMap]) -> None:
    """Layers and heads that were asked for are there."""
    sites = dict.fromkeys(map_.site for map_ in maps)
    layers, heads = asked["layers"], asked["heads"]
    if layers is not None and max(layers) >= len(sites):
        there = ", ".join(f"{place} `{site}`" for place, site in enumerate(sites)) or "none"
        raise RequestError(f"`--layers {max(layers)}` is not there: the layers are {there}.")
    most = max((map_.weights.shape[1] for map_ in maps), default=0)
    if heads is not None and max(heads) >= most:
        raise RequestError(
            f"`--heads {max(heads)}` is not there: no layer has more than {most} heads, counted "
            "from 0."
        )


class Format(StrEnum):
    """Which mouth tells of a run."""

    HTML = "html"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    TENSORBOARD = "tensorboard"


def render(
    run: Folder,
    format_: Annotated[
        Format,
        typer.Option(
            "--format", help="A page, text for an issue, XML for a CI, or readings as event files."
        ),
    ] = Format.HTML,
) -> None:
    """Rebuild a run's report from its record alone."""
    from probes.run import Run
    from reports.junit import junit
    from reports.markdown import markdown
    from reports.page import read_page
    from reports.render import render as rendered

    if format_ is Format.HTML:
        report = rendered(run)
    elif format_ is Format.TENSORBOARD:
        from reports.tensorboard import write_events

        report = run / "events"
        write_events(Run(run), report)
    else:
        page = read_page(Run(run))
        name, text = {
            Format.MARKDOWN: ("report.md", markdown),
            Format.JUNIT: ("junit.xml", junit),
        }[format_]
        report = run / name
        report.write_text(text(page), encoding="utf-8")
    print(f"report: {report}")
    done(run)


def index(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="A folder that holds run folders.")],
) -> None:
    """Write a page over all runs below a folder: verdicts, first causes, small curves."""
    from reports.render import render_index

    print(f"report: {render_index(runs)}")
    done(runs)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Run folders.")],
    out: Out = None,
) -> None:
    """Say where runs first part, which settings differ, and how their curves lie."""
    from probes.record import Recorder, new_folder
    from reports.comparison import compare as compared
    from reports.figures.svg import short
    from reports.render import compared as laid_out

    found = compared(runs)
    folder = new_folder(out)
    recorder = Recorder(folder, settings={"part": "comparison", "runs": [str(run) for run in runs]})
    report = folder / "report.html"
    report.write_text(laid_out(found), encoding="utf-8")
    recorder.close()
    first = (found.other,) if found.other else ()
    for words in (*first, *found.unfinished, *(e.words for e in found.partings), *found.spread):
        print(words)
    for name, values in found.differ:
        print(f"{name}: {' | '.join(short(value or '-', 60) for value in values)}")
    print(f"report: {report}")
    done(folder)


COMMANDS: tuple[Callable[..., None], ...] = (attention, render, index, compare)
