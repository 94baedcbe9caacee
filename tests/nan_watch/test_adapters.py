"""Subjects that are made of other frameworks' trainers, and callbacks that are used wrongly."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from nan_watch import NanWatch
from nan_watch.adapters.copied import names_of, optimizer_for, schedule_for
from nan_watch.adapters.known import known
from nan_watch.adapters.passes import passes
from nan_watch.adapters.together import together
from nan_watch.hunt import hunt
from probes.errors import RequestError
from probes.loop import Loop
from probes.seeding import kept_random_state
from probes.subject import load_subject

EXAMPLES = Path(__file__).parent.parent / "examples"

trainer = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="accelerate is not installed: pip install '.[dev]'"
)
lightning = pytest.mark.skipif(
    find_spec("lightning") is None, reason="lightning is not installed: pip install '.[dev]'"
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_optimizer_and_its_schedule_are_made_again_for_another_model() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [{"params": [one.weight], "weight_decay": 0.1}, {"params": [one.bias]}]
    like = torch.optim.AdamW(groups, lr=0.5)
    warm = torch.optim.lr_scheduler.LambdaLR(like, lambda step: (step + 1) / 4)
    made = optimizer_for(two, like, names_of(one))
    schedule = schedule_for(made, warm, like)
    assert made.param_groups[0]["params"] == [two.weight]
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.01]
    two(torch.ones(1, 2)).sum().backward()
    made.step()
    schedule.step()
    assert made.param_groups[1]["lr"] == 0.25
    assert like.param_groups[1]["lr"] == 0.125
    assert not like.state


def test_every_pass_draws_the_same_order_and_moves_no_generator() -> None:
    own = torch.Generator().manual_seed(3)
    loaders = [
        DataLoader(range(20), batch_size=5, shuffle=True),  # type: ignore[arg-type]
        DataLoader(range(20), batch_size=5, shuffle=True, generator=own),  # type: ignore[arg-type]
    ]
    for loader in loaders:
        again = passes(lambda loader=loader: loader)  # type: ignore[misc]
        with kept_random_state():
            first = [batch.tolist() for batch in again]
        torch.rand(3)
        before = torch.get_rng_state()
        assert [batch.tolist() for batch in again] == first
        assert torch.equal(torch.get_rng_state(), before)
        assert len(again) == 4  # type: ignore[arg-type]
    assert not hasattr(passes(lambda: iter([1, 2])), "__len__")


def test_two_optimizers_of_one_model_are_guarded_as_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    pair = [torch.optim.SGD(part.parameters(), 0.1) for part in model]
    before = [parameter.clone() for parameter in model.parameters()]
    with NanWatch(model, together(pair), on_poison="skip") as watch:
        for each in pair:
            for one in pair:
                one.zero_grad()
            (model(torch.ones(1, 2)) / 0.0).sum().backward()
            each.step()
    assert watch.steps == 2
    assert watch.findings
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))


@trainer
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_trainer_is_a_subject() -> None:
    place = EXAMPLES / "trainer_classifier.py"
    subject = load_subject(f"{place}:sick", seed=0)
    loop = Loop(subject)
    assert [len(group["params"]) for group in loop.optimizer.param_groups] == [11, 14]
    assert subject.clip_norm == 1.0
    found = hunt(subject, steps=2).judgement.findings
    assert found[0].code == "NAN001"
    healthy = load_subject(f"{place}:healthy", seed=0)
    assert not hunt(healthy, steps=4).judgement.findings
    loop = Loop(healthy)
    assert loop.schedule is not None
    for _ in range(400):  # more than the Trainer itself would take
        loop.schedule.step()
    assert loop.optimizer.param_groups[0]["lr"] > 0.3 * loop.schedule.base_lrs[0]


@trainer
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_schedule_that_is_given_to_the_trainer_lasts_as_long_as_a_diagnosis() -> None:
    from nan_watch.adapters.transformers import subject_of

    source: dict[str, object] = {"__name__": "example"}
    exec(compile((EXAMPLES / "trainer_classifier.py").read_text(), "example.py", "exec"), source)
    made = source["make"](source["Trainer"], [])  # type: ignore[operator]
    made.optimizer = torch.optim.SGD(made.model.parameters(), 0.1)
    made.lr_scheduler = torch.optim.lr_scheduler.LinearLR(made.optimizer, 1.0, 0.0, 6)
    subject = subject_of(made)
    assert subject is not None
    loop = Loop(subject)
    assert loop.schedule is not None
    for _ in range(400):
        loop.schedule.step()
    assert loop.optimizer.param_groups[0]["lr"] > 0.03


@trainer
def test_a_step_of_accelerates_optimizer_is_looked_at() -> None:
    from accelerate import Accelerator

    from probes.stepping.hooked import before_steps

    model, seen = nn.Linear(2, 2), list[object]()
    optimizer = Accelerator(cpu=True).prepare_optimizer(torch.optim.SGD(model.parameters(), 0.1))
    model(torch.ones(1, 2)).sum().backward()
    with before_steps(optimizer, lambda *_: seen.append(model.weight.grad)):
        optimizer.step()
    optimizer.step()
    assert len(seen) == 1


@trainer
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_callback_that_is_added_twice_is_refused() -> None:
    from nan_watch.adapters.transformers import WatchCallback

    source: dict[str, object] = {"__name__": "example"}
    exec(compile((EXAMPLES / "trainer_classifier.py").read_text(), "example.py", "exec"), source)
    make, kind = source["make"], source["Trainer"]
    with pytest.raises(RequestError, match="2 callbacks of class `WatchCallback`"):
        make(kind, [WatchCallback(), WatchCallback()]).train()  # type: ignore[operator]
    with pytest.raises(RequestError, match="watched nothing yet"):
        _ = WatchCallback().watch


@lightning
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_lightning_module_with_its_data_is_a_subject() -> None:
    place = EXAMPLES / "lightning_module.py"
    subject = load_subject(f"{place}:sick", seed=0)
    assert subject.clip_norm == 1.0
    assert subject.schedule is not None
    assert hunt(subject, steps=2).judgement.findings[0].code == "NAN001"
    healthy = load_subject(f"{place}:healthy", seed=0)
    assert not hunt(healthy, steps=8).judgement.findings


@lightning
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_manual_optimization_is_a_step_of_the_modules_own() -> None:
    place = EXAMPLES / "lightning_by_hand.py"
    healthy = load_subject(f"{place}:healthy", seed=0)
    assert healthy.train_step is not None
    assert not hunt(healthy, steps=8).judgement.findings
    found = hunt(load_subject(f"{place}:sick", seed=0), steps=8).judgement.findings
    assert found[0].code == "NAN001"


@lightning
@pytest.mark.parametrize("way", ["norm", "value"])
def test_a_module_that_clips_by_hand_has_its_gradients_clipped_without_a_trainer(way: str) -> None:
    import lightning.pytorch as pl

    from nan_watch.adapters.lightning import subject_of

    class Clipped(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.line = nn.Linear(3, 1)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = self.line(batch).square().sum()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm=way)
            optimizer.step()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    subject = subject_of((Clipped(), [torch.full((4, 3), 9.0)]))
    assert subject is not None
    assert hunt(subject, steps=2).judgement.findings == ()
    grads = [p.grad for p in subject.model.parameters() if p.grad is not None]
    largest = max(float(each.abs().max()) for each in grads)
    norm = float(torch.stack([each.norm() for each in grads]).norm())
    assert (norm if way == "norm" else largest) == pytest.approx(1e-3, rel=1e-2)


def classified(kind: str, callbacks: list[object]) -> object:
    """The example's Trainer, of a class of one's own where `kind` is the name of what it lacks."""
    source: dict[str, object] = {"__name__": "example"}
    exec(compile((EXAMPLES / "trainer_classifier.py").read_text(), "example.py", "exec"), source)
    own: type = source["Trainer"]  # type: ignore[assignment]

    class Other(own):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> object:
            if name == kind and "nan_watch" in sys._getframe(1).f_globals["__name__"]:
                raise AttributeError(name)
            return super().__getattribute__(name)

    return source["make"](Other, callbacks)  # type: ignore[operator]


@trainer
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["callback_handler", "model_wrapped", "training_step"])
def test_a_trainer_of_an_unknown_version_is_refused_with_a_sentence(name: str) -> None:
    from nan_watch.adapters.transformers import WatchCallback

    said = f"its Other has no `{name}`, which was expected"
    with pytest.raises(RequestError, match=said):
        classified(name, [WatchCallback()]).train()  # type: ignore[attr-defined]
    assert not Path("runs").exists()


@trainer
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_trainer_that_does_not_say_that_a_step_is_over_is_replayed_step_by_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.trainer_callback import CallbackHandler

    from nan_watch.adapters.transformers import WatchCallback

    monkeypatch.setattr(CallbackHandler, "on_optimizer_step", lambda *given: given[-1])
    watch = WatchCallback()
    classified("", [watch]).train()  # type: ignore[attr-defined]
    assert watch.watch.steps == 6
    assert len(watch._standing._parts) <= 2  # type: ignore[union-attr]


@trainer
@lightning
@pytest.mark.slow
def test_a_callback_says_which_framework_it_is_of() -> None:
    from nan_watch.adapters.lightning import WatchCallback as Lightnings
    from nan_watch.adapters.transformers import WatchCallback as Trainers

    for callback, other in ((Lightnings(), "transformers"), (Trainers(), "lightning")):
        with pytest.raises(AttributeError, match=f"import it from `nan_watch.adapters.{other}`"):
            _ = callback.on_something
        assert not hasattr(callback, "on_something")
        assert copy.deepcopy(callback) is not callback


@lightning
def test_an_unknown_version_is_told_with_its_number() -> None:
    with pytest.raises(RequestError, match=r"lightning 2\.\S+ is of a version that is not known"):
        known(object(), "strategy", "lightning")
    with pytest.raises(RequestError, match="nowhere of no version is of a version"):
        known(object(), "strategy", "nowhere")
