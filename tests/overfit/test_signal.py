"""Where the input is lost, where the way back is cut, and the look that says so."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.cuts import cuts
from overfit.look import Look, Looker, kept_start
from overfit.lost import where_lost
from overfit.miscounted import miscounted
from overfit.mode_site import ModeSite
from overfit.parting import where_parted
from overfit.targets import read_targets
from probes import Subject

BATCH = (torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.head, self.how = nn.Linear(4, 8), nn.Linear(8, 3), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no_grad":
            with torch.no_grad():
                return self.head(self.body(x))  # type: ignore[no-any-return]  # no_grad
        seen = self.body(x)
        if self.how == "detach":
            seen = seen.detach()  # detach
        if self.how == "zero":
            seen = seen * 0  # zero
        if self.how == "first":
            seen = seen[:1].expand_as(seen)
        return self.head(seen)  # type: ignore[no-any-return]


def subject(how: str) -> Subject:
    torch.manual_seed(0)
    return Subject(
        Net(how),
        [BATCH],
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


def line(mark: str) -> str:
    rows = Path(__file__).read_text().splitlines()
    return f"test_signal.py:{next(i for i, row in enumerate(rows, 1) if row.endswith(f'# {mark}'))}"


def test_a_detach_is_named_with_its_line_and_what_it_cuts_off() -> None:
    (cut,) = cuts(subject("detach"), BATCH)
    assert (cut.op, cut.parameters) == ("detach", ("body.weight", "body.bias"))
    assert str(cut.source).endswith(line("detach"))


def test_no_grad_cuts_what_runs_inside() -> None:
    own = subject("no_grad")
    with torch.no_grad():
        loss = own.loss(own.model, BATCH)
    assert not loss.requires_grad  # nothing has a gradient, so that no step could be taken
    assert cuts(subject("none"), BATCH) == ()


def test_the_operator_that_loses_the_input_is_named() -> None:
    lost = where_lost(subject("zero"), [BATCH], ("0",))
    assert lost is not None
    assert lost.op == "mul"
    assert str(lost.source).endswith(line("zero"))
    assert where_lost(subject("none"), [BATCH], ("0",)) is None


def test_the_look_measures_what_a_blind_model_reads_and_changes_nothing() -> None:
    own = subject("zero")
    began = kept_start(own.model)
    random = torch.get_rng_state()
    look = Looker(own, [BATCH], began).look()
    assert look.reading == look.began_reading == 0.0
    assert (look.moved, look.size, look.noise) == (0.0, 1.0, 0.0)
    assert look.evaluated == pytest.approx(look.trained)
    assert all(torch.equal(own.model.state_dict()[name], began[name]) for name in began)
    assert all(each.grad is None for each in own.model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert Look.from_json(look.as_json()) == look
    seeing = subject("none")
    reading = Looker(seeing, [BATCH], kept_start(seeing.model)).look().reading
    assert reading is not None
    assert reading > 1e-3


def test_a_module_whose_mode_moves_the_loss_is_named() -> None:
    own = subject("none")
    own.model.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    nn.init.constant_(own.model.body[1].running_mean, 3.0)
    look = Looker(own, [BATCH], kept_start(own.model)).look()
    assert look.mode_site == ModeSite("body.1", None)
    assert (look.narrow, look.width) == ("body.0", 8)


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = 3 * x  # parts
        return super().forward(x)


def test_code_that_asks_for_its_mode_is_named_with_its_line() -> None:
    own = replace(subject("none"), model=Noisy("none"))
    place = Looker(own, [BATCH], kept_start(own.model)).look().mode_site
    lines, first = inspect.getsourcelines(Noisy)
    at = first + next(i for i, line in enumerate(lines) if "# parts" in line)
    assert place is not None
    assert place.site == "model"
    assert (place.source or "").endswith(f"test_signal.py:{at}")


@pytest.mark.parametrize(("axis", "wrong"), [(0, ["class"]), (-1, [])])
def test_what_the_loss_has_right_and_an_accuracy_does_not(axis: int, wrong: list[str]) -> None:
    def right(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        best = model(batch[0])[:3].argmax(axis)  # as many samples as classes
        return (best == batch[1][:3]).sum() + 3, len(batch[1])

    own = replace(subject("none"), metrics={"class": right})
    own.model.head = nn.Identity()
    own.model.body = nn.Linear(4, 3)
    batch = (torch.eye(4)[[0, 0, 1, 1, 2, 2]], torch.tensor([0, 0, 1, 1, 2, 2]))
    with torch.no_grad():
        own.model.body.weight.copy_(torch.eye(4)[:3])
        own.model.body.bias.zero_()
    found = miscounted(own, [batch], read_targets(own, [batch]).found)
    assert [each.head for each in found] == wrong
    assert all("test_signal.py" in (each.source or "") for each in found)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_loss_of_the_wrong_sign_is_tried_the_other_way(sign: int) -> None:
    def gold(model: nn.Module, batch: Any) -> Tensor:
        logs = model(batch[0]).log_softmax(-1).gather(1, batch[1][:, None])
        return sign * logs.clamp(min=-20).mean()

    def right(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return (model(batch[0]).argmax(-1) == batch[1]).sum(), len(batch[1])

    adam = lambda model: torch.optim.Adam(model.parameters(), lr=0.1)  # noqa: E731
    own = replace(subject("none"), loss=gold, optimizer=adam, metrics={"class": right})
    began, ended = kept_start(own.model), subject("none").model
    with torch.no_grad():
        ended.head.bias.copy_(torch.tensor([0.0, 0.0, 99.0]))
    own.model.load_state_dict(ended.state_dict())
    random, batch = torch.get_rng_state(), (BATCH[0], torch.tensor([0, 1, 0, 1, 0, 1]))
    looker = Looker(own, [batch], began)
    found = looker.look()
    assert (found.climbed is not None) == (sign > 0)
    assert Look.from_json(found.as_json()) == found
    assert torch.equal(own.model.state_dict()["head.bias"], ended.head.bias)
    assert torch.equal(torch.get_rng_state(), random)


def test_what_the_loss_alone_does_to_its_input_is_named_with_its_line() -> None:
    def right(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
        return (model(batch[0]).argmax(-1) == batch[1]).sum(), len(batch[1])

    def in_training(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(-batch[0] if model.training else batch[0]), batch[1])

    same = replace(subject("plain"), metrics={"y": right})
    assert where_parted(same, BATCH) is None
    inverted = replace(same, loss=lambda m, b: F.cross_entropy(m(1 - b[0]), b[1]))  # inverted
    for sick in (inverted, replace(same, loss=in_training)):
        found = where_parted(sick, BATCH)
        assert found is not None
        assert (found.site, found.whole) == ("model", True)
        assert found.source is not None
        assert found.source.endswith(line("inverted")) == (sick is inverted)


def test_a_loss_that_raises_without_gradients_leaves_out_what_needs_it() -> None:
    def penalised(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0].requires_grad_()
        loss = F.cross_entropy(model(x), batch[1])
        return loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()

    own = Subject(
        Net("none"), [BATCH], penalised, lambda m: torch.optim.SGD(m.parameters(), lr=0.1)
    )
    look = Looker(own, [(BATCH[0].clone(), BATCH[1])], kept_start(own.model)).look()
    assert look.reading is None
    assert look.moved == 0.0


def test_labels_that_the_loss_changes_are_no_inputs() -> None:
    def scaled(model: nn.Module, batch: Any) -> Tensor:
        return F.mse_loss(model(batch["x"]), 3 * batch["y"])

    batch = {"x": torch.randn(6, 4), "y": torch.randn(6, 3)}
    sgd = lambda model: torch.optim.SGD(model.parameters(), lr=0.1)  # noqa: E731
    looker = Looker(Subject(Net("none"), [batch], scaled, sgd), [batch], {})
    assert looker.keys == ("x",)
    odd = {"x": batch["x"], "wanted": batch["y"]}
    other = lambda m, b: scaled(m, {"x": b["x"], "y": b["wanted"]})  # noqa: E731
    assert Looker(Subject(Net("none"), [odd], other, sgd), [odd], {}).keys == ()


@pytest.mark.parametrize("how", ["none", "zero"])
def test_what_moves_the_loss_and_no_prediction_is_no_input(how: str) -> None:
    def squared(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch["past"]) - 3 * batch["future"]).square().mean()

    own = subject(how)
    odd = {"past": torch.randn(6, 4), "future": torch.randn(6, 3)}
    predict = lambda m, b: m(b["past"])  # noqa: E731
    own = replace(own, batches=[odd], loss=squared, predict=predict)
    looker = Looker(own, [odd], kept_start(own.model))
    assert looker.keys == ("past",)
    assert (looker.look().reading == 0) == (how == "zero")
    of_torch = replace(own, loss=lambda m, b: F.mse_loss(m(b["past"]), 3 * b["future"]))
    assert Looker(of_torch, [odd], {}).keys == ("past",)
    assert set(Looker(replace(own, predict=None), [odd], {}).keys) == {"past", "future"}
