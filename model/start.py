"""What a run starts from: the default, a run of the log, or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import Checkpoint, latest, whole
from model.config import Config, from_json
from model.experiments import experiment
from model.faults import Faults
from model.network import build
from model.parser import Parser
from model.read import Corpus
from model.source import Source
from probes.command import check_device
from probes.errors import RequestError
from probes.record import new_folder


@dataclass(frozen=True)
class Start:
    """Settings, planted bugs, where the data is, and the checkpoint that it goes on from."""

    config: Config
    faults: Faults
    source: Source
    resumed: Checkpoint | None = None


def start(name: str | None, resume: Path | None) -> Start:
    """The run of the log of this name, the newest checkpoint at this place, or the default."""
    if name is not None and resume is not None:
        raise RequestError(
            f"`--experiment {name}` and `--resume {resume}` were both given: a resumed run has "
            "its settings already; leave one of them out"
        )
    if resume is not None:
        return stored(resume)
    if name is not None:
        run = experiment(name)
        return Start(run.config, run.faults, Source())
    return Start(Config(), Faults(), Source())


def stored(place: Path) -> Start:
    """What the checkpoint at this place, or the newest one of this run, was trained with.

    Raises RequestError where there is none, or where it is not the specimen's.
    """
    found = latest(place)
    try:
        faults, source = Faults(**found.about["faults"]), Source(**found.about["source"])
        return Start(from_json(found.about["config"]), faults, source, found)
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"`{found.folder}` is no checkpoint of the specimen as it is now ({error}): expected "
            "one that `python -m model train` of this version wrote; train it again"
        ) from error


def changed(
    start: Start, settings: Mapping[str, Any], bugs: Mapping[str, Any], source: Source | None
) -> Start:
    """The same with these fields of its settings and bugs, and this source where there is one."""
    return replace(
        start,
        config=replace(start.config, **settings),
        faults=replace(start.faults, **bugs),
        source=source or start.source,
    )


def loaded(start: Start, corpus: Corpus, device: str) -> Parser:
    """The checkpoint's model over the databases of a corpus, which may be another one."""
    assert start.resumed is not None
    model = build(start.config, corpus, start.faults, start.resumed.about["words"])
    start.resumed.load_model(model)
    return model.to(device).eval()


def run_folder(resumed: Checkpoint | None, out: Path | None) -> Path:
    """A fresh folder, or that of the run that goes on.

    Raises RequestError where `out` exists, and where the run has a newer checkpoint.
    """
    if resumed is None or out is not None:
        return new_folder(out)
    run = resumed.folder.parent
    newest = whole(run)[-1]
    if newest.resolve() != resumed.folder.resolve():
        raise RequestError(
            f"`{resumed.folder}` is not the newest checkpoint of its run, `{newest.name}` is: "
            "going on there would mix two runs; give a fresh folder by `--out`"
        )
    return run


def device_of(asked: str) -> str:
    """`auto` is cuda where there is one. Raises RequestError where what was asked is absent."""
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(asked)
    return asked
