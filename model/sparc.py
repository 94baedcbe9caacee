"""The specimen learns SParC: `python -m model sparc --data FOLDER`, what `make sparc` calls.

Training stands in `runs/sparc-seedN` and is gone on with where it was left. What comes out is
printed, and is one row of `results.csv`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.checkpoint import latest, whole
from model.config import Config
from model.evaluate import evaluate, exact, written_alone
from model.faults import Faults
from model.floors import floors
from model.order import cut, split
from model.results import RESULTS, Row, add, changes
from model.session import encoded, say_scores, train
from model.source import Source, counted
from model.start import Start, device_of, loaded, stored
from model.trainer import Habits
from probes.errors import RequestError
from probes.progress import progress
from reports import render

SPARC = Config(
    encoder="minilm",
    bert_frozen=True,
    cached=True,
    pre_turn=False,
    width=128,
    transformer_layers=1,
    joint=True,
    naming=True,
    used=True,
    query_reader=True,
    copying=True,
    dropout=0.2,
    read_dropout=0.1,
    bucketing=True,
    validation=150,
    validation_databases=True,
    steps=1500,
    lr=1e-3,
    warmup=50,
    schedule="linear",
)
"""What learns SParC on two cores."""

LEFT = ("watch-*", "events.out.tfevents.*", "step-*")
"""What a run that was killed before its first checkpoint has in its folder."""

HABITS = Habits(save_every=100, measure_every=50)


def sparc(
    data: Path, out: Path | None, settings: Mapping[str, Any], device: str, results: Path = RESULTS
) -> int:
    """A run is trained, or gone on with, measured on dev, reported and in the table of results.

    Returns the exit status of training; where that is not 0, nothing is measured.
    """
    config = replace(SPARC, **settings)
    run = out or Path("runs") / f"sparc-seed{config.seed}"
    start = _start(run, Start(config, Faults(), Source(str(data.resolve()))))
    status = train(start, device, None if start.resumed else run, HABITS)
    if status:
        return status
    row = measured(run, data, device)
    add(row, results)
    print(f"one row of {results}: {row.words()}")
    watches = sorted(run.glob("watch-*"))
    print(f"report: {render(watches[-1])}", flush=True)
    return 0


def _start(run: Path, fresh: Start) -> Start:
    """The run's newest checkpoint where there is one; else what is fresh, in no folder yet."""
    if whole(run):
        found = stored(run)
        if replace(found.config, steps=fresh.config.steps) != fresh.config:
            told = changes(found.config, fresh.config)
            raise RequestError(
                f"`{run}` was trained with other settings than those asked for ({told}): going on "
                "there would mix two runs; give a fresh folder by `--out`, or the settings it had"
            )
        return replace(found, config=fresh.config, source=fresh.source)
    if run.is_dir():
        _clear(run)
    return fresh


def _clear(run: Path) -> None:
    """What training left before its first checkpoint is gone; nothing that is not training's."""
    ours = {path for name in LEFT for path in run.glob(name)}
    strange = sorted(path.name for path in set(run.iterdir()) - ours)
    if strange:
        raise RequestError(
            f"`{run}` has no checkpoint, and holds what training did not write "
            f"({', '.join(strange[:5])}): give a fresh folder by `--out`"
        )
    print(f"`{run}` has no checkpoint yet and is begun anew")
    shutil.rmtree(run)


def measured(run: Path, data: Path, device: str) -> Row:
    """The row of a finished run: its accuracies on dev, and floors counted from its training."""
    start = stored(run)
    corpora = [
        replace(start.source, data=str(data), split=name).read() for name in ("train", "dev")
    ]
    training = split(start.config, corpora[0].interactions).training
    dev = cut(start.config, corpora[1].interactions)
    model = loaded(start, corpora[1], device_of(device))
    with progress() as shown:
        encoded(model, dev, shown)
    scores = dict(evaluate(model, dev, device_of(device)))
    alone = exact(dev, written_alone(model, dev, device_of(device)))
    found = floors(training, dev)
    title = f"dev, {counted(len(dev), 'interaction')}"
    say_scores(f"{title}, gold prefix", scores)
    say_scores(f"{title}, greedy", {"string, after its own queries": alone})
    say_scores(f"{title}, floors", found)
    about = latest(run).about
    return Row.of(start.config, SPARC, about, scores, alone, found)
