"""What the three commands do, and say in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import Progress

from model.checkpoint import Position
from model.evaluate import Scores, Written, evaluate, exact, said, written, written_alone
from model.floors import floors
from model.linearise import show as line
from model.order import cut, split
from model.parser import Parser
from model.read import Corpus, Interaction
from model.source import Source, counted
from model.start import Start, device_of, loaded, run_folder, stored
from model.trainer import Habits, Trainer
from nan_watch import PoisonedStep
from probes.errors import RequestError
from probes.progress import progress

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended


class Bar:
    """A progress bar that hears of every step; what is measured of a whole set is printed."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._task = shown.add_task("train", total=None, said="")
        self._accuracy = ""

    def step(self, position: Position, steps: int, loss: float) -> None:
        """The bar stands at this step, the loss beside it."""
        words = f"loss {loss:.4f}{self._accuracy}"
        self._shown.update(self._task, completed=position.step, total=steps, said=words)

    def measured(self, position: Position, name: str, scores: Scores) -> None:
        """The accuracy of a batch stands beside the bar."""
        if name == "batch":
            self._accuracy = f", string {said(scores['string'])}"
        else:
            say_scores(f"step {position.step}, {name}", scores)


def say_scores(title: str, scores: Scores) -> None:
    """Each accuracy stands on a line of its own, with its count."""
    print("\n".join(_table(title, scores)), flush=True)


def encoded(model: Parser, interactions: Sequence[Interaction], shown: Progress) -> None:
    """What a frozen encoder gives for these is kept on disk, where the model has a cache."""
    cached = model.collate.cached
    if cached is None:
        return
    task = shown.add_task("encode", total=sum(len(each.turns) for each in interactions), said="")
    missing = model.collate.prepare(interactions, lambda done: shown.update(task, completed=done))
    shown.remove_task(task)
    if cached.store.distrusted:
        print(f"cache: {cached.store.distrusted} bytes of an interrupted write were cut off")
    print(f"cache: {counted(missing, 'input')} encoded into {cached.store.folder}", flush=True)


def _table(title: str, scores: Scores) -> Iterator[str]:
    yield f"{title}:"
    for name, ratio in scores.items():
        yield f"  {name:<32}{said(ratio)}"


def train(start: Start, device: str, out: Path | None, habits: Habits) -> int:
    """The run has ended, and where its checkpoint is was said; returns the exit status."""
    corpus = start.source.read()
    with progress() as shown:
        trainer = Trainer(start, corpus, device_of(device), Bar(shown), habits)
        _say_what(trainer)
        encoded(trainer.model, [*trainer.split.training, *trainer.split.validation], shown)
        run = run_folder(start.resumed, out)
        try:
            saved, status = trainer.train(run), 0
        except PoisonedStep as error:
            print(f"step {trainer.position.step} was refused: {error}")
            saved, status = trainer.save(), 1
        if status == 0 and trainer.interrupted:
            print(f"stopped by Ctrl-C after step {trainer.position.step} of {trainer.config.steps}")
            status = INTERRUPTED
    print(f"checkpoint: {saved}", flush=True)
    return status


def _say_what(trainer: Trainer) -> None:
    training, held = trainer.split.training, len(trainer.split.validation)
    asked = len({each.database for each in training})
    weights = sum(each.numel() for each in trainer.model.parameters())
    count, over = counted(len(training), "interaction"), counted(asked, "database")
    print(f"training: {count} over {over}, {held} held out")
    print(f"model: {trainer.config.model}, {weights:,} weights, on {trainer.device}")
    if trainer.start.faults.planted:
        print(f"planted bugs: {', '.join(trainer.start.faults.planted)}")


def evaluate_checkpoint(place: Path, source: Source | None, device: str) -> None:
    """Every accuracy is printed with its count: of the data given, or of what it was trained on."""
    where, start = device_of(device), stored(place)
    corpus = (source or start.source).read()
    model = loaded(start, corpus, where)
    print(f"checkpoint: {start.resumed.folder if start.resumed else place}")
    trained_on = corpus if source is None else start.source.read()
    parts = split(start.config, trained_on.interactions)
    if source is not None:
        given = cut(start.config, corpus.interactions)
        _say_all("given data", model, given, parts.training, where)
        return
    _say_all("training", model, parts.training, parts.training, where)
    if parts.validation:
        _say_all("validation", model, parts.validation, parts.training, where)


def _say_all(
    title: str,
    model: Parser,
    interactions: Sequence[Interaction],
    training: Sequence[Interaction],
    device: str,
) -> None:
    with progress() as shown:
        encoded(model, interactions, shown)
    scores = dict(evaluate(model, interactions, device))
    greedy = exact(interactions, written(model, interactions, device))
    alone = exact(interactions, written_alone(model, interactions, device))
    title = f"{title}, {counted(len(interactions), 'interaction')}"
    say_scores(f"{title}, gold prefix", scores)
    found = {"string, after gold queries": greedy, "string, after its own queries": alone}
    say_scores(f"{title}, greedy", found)
    say_scores(f"{title}, floors without the utterance", floors(training, interactions))


def show(index: int, place: Path | None, source: Source | None, device: str) -> None:
    """The interaction is printed, and what the checkpoint writes where one is given."""
    start = None if place is None else stored(place)
    corpus = (source or (start.source if start else Source())).read()
    interaction = _at(corpus, index)
    guess: Written | None = None
    if start is not None:
        where = device_of(device)
        [interaction] = cut(start.config, [interaction])
        guess = written_alone(loaded(start, corpus, where), [interaction], where)
    units = corpus.databases[interaction.database].units
    print(f"interaction {interaction.index} over {interaction.database}, {len(units)} units:")
    print("  " + " ".join(units))
    for number, turn in enumerate(interaction.turns):
        print(f"turn {number}: {turn.utterance}")
        print(f"  sql      {turn.query}")
        print(f"  steps    {line(turn.steps)}")
        if guess is not None:
            steps = guess[0][number]
            print(f"  written  {line(steps)}  ({'right' if steps == turn.steps else 'wrong'})")


def _at(corpus: Corpus, index: int) -> Interaction:
    found = {each.index: each for each in corpus.interactions}
    if index not in found:
        raise RequestError(
            f"`{index}` is no interaction of the data: expected a place from {min(found)} to "
            f"{max(found)} that has a turn; correct it"
        )
    return found[index]
