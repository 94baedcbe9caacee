from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import Position, latest, whole
from model.config import Config
from model.evaluate import Scores
from model.faults import Faults
from model.losses import loss
from model.optimise import clipped
from model.order import batches
from model.read import Corpus
from model.source import Source
from model.start import Start, changed, stored
from model.trainer import Habits, Trainer
from nan_watch import PoisonedStep
from probes.errors import RequestError
from probes.run import Run

SMALL: dict[str, Any] = {
    "tiny_dataset": 10,
    "batch_size": 4,
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
}


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.scores: list[tuple[int, str]] = []

    def step(self, position: Position, steps: int, loss: float) -> None:
        assert position.step <= steps
        self.losses.append(loss)

    def measured(self, position: Position, name: str, scores: Scores) -> None:
        self.scores.append((position.step, name))
        assert set(scores) == {"token", "string", "key", "db", "unreachable"}


def trainer(corpus: Corpus, start: Start, **habits: Any) -> Trainer:
    return Trainer(start, corpus, "cpu", Heard(), Habits(**habits))


def fresh(**changes: Any) -> Start:
    return Start(Config(**(SMALL | changes)), Faults(), Source())


def equal(left: Trainer, right: Trainer) -> bool:
    theirs = right.model.state_dict()
    mine = left.model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in mine.items())


@pytest.mark.parametrize(
    "changes",
    [
        {},  # dropout draws random numbers, and an epoch has three steps: 10 is within one
        {"model": "seq2seq", "batch_size": 1},
        {"schedule": "linear", "warmup": 3, "clip": "all_but_bert"},
    ],
    ids=["hierarchical", "seq2seq", "schedule"],
)
def test_resumes_to_the_bit(corpus: Corpus, tmp_path: Path, changes: dict[str, Any]) -> None:
    straight = trainer(corpus, fresh(steps=20, **changes), save_every=10, measure_every=3)
    straight.train(tmp_path / "straight")
    half = whole(tmp_path / "straight")[0]
    assert half.name == "step-000010"
    shutil.copytree(half, tmp_path / "half" / half.name)
    resumed = trainer(corpus, stored(tmp_path / "half"), measure_every=7)
    assert not equal(straight, resumed)
    resumed.train(tmp_path / "half")
    per_epoch = -(-10 // straight.config.batch_size)
    assert resumed.position == straight.position == Position(20, *divmod(20, per_epoch))
    assert equal(straight, resumed)
    ours, theirs = straight.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, slots in ours["state"].items():
        assert all(
            torch.equal(value, theirs["state"][index][name]) for name, value in slots.items()
        )


def test_ten_and_ten_more_are_twenty(corpus: Corpus, tmp_path: Path) -> None:
    straight = trainer(corpus, fresh(steps=20))
    straight.train(tmp_path / "straight")
    trainer(corpus, fresh(steps=10)).train(tmp_path / "half")
    more = changed(stored(tmp_path / "half"), {"steps": 20}, {}, None)
    resumed = trainer(corpus, more)
    resumed.train(tmp_path / "half")
    assert equal(straight, resumed)
    assert [path.name for path in whole(tmp_path / "half")] == ["step-000010", "step-000020"]


def test_measuring_and_saving_change_no_bit(corpus: Corpus, tmp_path: Path) -> None:
    often = trainer(corpus, fresh(steps=6), measure_every=1, save_every=1)
    often.train(tmp_path / "often")
    never = trainer(corpus, fresh(steps=6), measure_every=0, save_every=0)
    never.train(tmp_path / "never")
    assert equal(often, never)


def test_a_bare_loop_gives_the_same_bits(corpus: Corpus, tmp_path: Path) -> None:
    watched = trainer(corpus, fresh(steps=20))
    watched.train(tmp_path)
    bare = trainer(corpus, fresh(steps=20))
    model, over, config = bare.model, bare.optimizer, bare.config
    model.train()
    for epoch in range(7):
        for interactions in batches(config, bare.split.training, epoch)[: 20 - 3 * epoch]:
            over.zero_grad()
            loss(model, model.collate(interactions)).backward()
            torch.nn.utils.clip_grad_norm_(clipped(config, model), config.clip_norm)
            over.step()
            bare.schedule.step()
    assert equal(watched, bare)


def test_the_run_folder_holds_the_watch_and_three_checkpoints(
    corpus: Corpus, tmp_path: Path
) -> None:
    made = trainer(corpus, fresh(steps=6, validation=2), save_every=1, measure_every=2)
    last = made.train(tmp_path)
    assert [path.name for path in whole(tmp_path)] == [f"step-00000{i}" for i in (4, 5, 6)]
    assert last == whole(tmp_path)[-1]
    watched = Run(tmp_path / "watch-000000")
    frame = watched.readings()
    losses = frame[(frame.kind == "loss") & (frame.site == "<loss>")]
    heard = made.listener
    assert isinstance(heard, Heard)
    assert losses.value.tolist() == pytest.approx(heard.losses)
    assert len(heard.losses) == 6
    own = [(step, "batch") for step in (2, 4, 6)]
    ends = [(3, "validation"), (6, "validation"), (6, "training"), (6, "validation")]
    assert sorted(heard.scores) == sorted(own + ends)


def test_the_checkpoint_says_what_was_trained(corpus: Corpus, tmp_path: Path) -> None:
    start = replace(fresh(steps=1), faults=Faults(misaligned=1))
    saved = trainer(corpus, start).train(tmp_path)
    again = stored(saved)
    assert (again.config, again.faults, again.source) == (start.config, start.faults, start.source)
    about = json.loads((saved / "checkpoint.json").read_text())["about"]
    assert about["words"][:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def test_a_poisoned_step_never_reaches_the_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    sick = replace(fresh(steps=5), faults=Faults(softmax_then_log=True))  # padded units give NaN
    made = trainer(corpus, sick)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(PoisonedStep):
        made.train(tmp_path)
    saved = made.save()
    assert saved.name == f"step-{made.position.step:06d}"
    after = stored(saved)
    assert after.resumed is not None
    after.resumed.load_model(made.model)
    assert made.position.step == 0
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert Run(tmp_path / "watch-000000").judgement.findings


def test_a_second_try_from_one_step_gets_a_watch_of_its_own(corpus: Corpus, tmp_path: Path) -> None:
    for _ in range(2):
        trainer(corpus, fresh(steps=1)).train(tmp_path)
    names = sorted(path.name for path in tmp_path.glob("watch-*"))
    assert names == ["watch-000000", "watch-000000-2"]


def test_other_data_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    trainer(corpus, fresh(steps=1)).train(tmp_path)
    other = replace(corpus, interactions=corpus.interactions[1:])
    with pytest.raises(RequestError, match="was trained on other interactions than the 10 that"):
        trainer(other, stored(tmp_path))


def test_scalars_stand_in_tensorboard_files(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(corpus, fresh(steps=4), measure_every=2).train(tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss", "lr/0", "lr/1", "string/batch", "string/training", "db/batch"} <= names
    assert [each.step for each in events.Scalars("loss")] == [0, 1, 2, 3]


def test_a_checkpoint_of_something_else_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    saved = trainer(corpus, fresh(steps=1)).train(tmp_path)
    path = saved / "checkpoint.json"
    path.write_text(path.read_text().replace('"faults"', '"bugs"'))
    with pytest.raises(RequestError, match="is no checkpoint of the specimen as it is now"):
        stored(saved)


def test_latest_of_the_run_is_what_was_returned(corpus: Corpus, tmp_path: Path) -> None:
    saved = trainer(corpus, fresh(steps=2)).train(tmp_path)
    assert latest(tmp_path).folder == saved
