"""What is tried at the end: a smaller step, a step without gradient, a copy's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overfit.bottleneck import bottleneck
from overfit.curves import Accuracy, Curves
from overfit.decay import is_direct
from overfit.drive import Drive, eps_of
from overfit.lagging import lagging
from overfit.look import Look, kept_start
from overfit.outcome import outcome
from overfit.rules.decay_holds import DecayHolds
from overfit.rules.too_slow import TooSlow
from overfit.settled import Settled, settled
from overfit.trials import Trials
from probes import Ratio, Subject

Batch = dict[str, Tensor]
Make = Callable[[Iterable[nn.Parameter]], Optimizer]


class Signed(Optimizer):
    """A step of the rate along the gradient's sign, beside a decay of the weights themselves."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                each.mul_(1 - group["lr"] * group["weight_decay"])
                each.sub_(each.grad.sign(), alpha=group["lr"])


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return 3 * nn.functional.mse_loss(model(batch["x"]), batch["y"])


def near(model: nn.Module, batch: Batch) -> Ratio:
    off = (model(batch["x"]) - batch["y"]).abs().amax(-1)
    return Ratio((off < 0.05).sum(), len(off))


def subject(make: Make, model: nn.Module | None = None, wide: int = 2) -> Subject:
    torch.manual_seed(0)
    net = model or nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, wide))
    batches = [{"x": torch.randn(4, 6), "y": torch.randn(4, wide)} for _ in range(2)]
    return Subject(net, batches, loss, lambda m: make(m.parameters()), metrics={"near": near})


def trained(one: Subject, steps: int = 300) -> Subject:
    optimizer = one.optimizer(one.model)
    for at in range(steps):
        optimizer.zero_grad()
        one.loss(one.model, one.batches[at % 2]).backward()
        optimizer.step()
    return one


@pytest.mark.parametrize(
    ("make", "large"),
    [
        (lambda ps: Signed(ps, lr=0.02), True),
        (lambda ps: torch.optim.RMSprop(ps, lr=0.03, alpha=0.3), True),
        (lambda ps: torch.optim.Adam(ps, lr=1e-3), False),
        (lambda ps: torch.optim.SGD(ps, lr=0.02), False),
    ],
    ids=["sign", "rmsprop", "adam", "sgd"],
)
def test_a_tenth_of_the_rate_settles_what_is_too_large_a_step_and_nothing_else(
    make: Make, large: bool
) -> None:
    one = trained(subject(make))
    before, random = kept_start(one.model), torch.get_rng_state()
    found = settled(one, one.batches)
    assert found is not None
    assert (found.smaller <= 0.3 * found.kept) == large
    assert all(torch.equal(v, before[k]) for k, v in one.model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert settled(replace(one, train_step=lambda m, b, o: o), one.batches) is None


def curves(look: Look, drive: Drive | None = None, losses: tuple[float, ...] = ()) -> Curves:
    course = losses or (1.0, *[0.03, 0.04] * 40)
    return Curves(
        name="overfit-5-seed0",
        size=5,
        seed=0,
        budget=len(course),
        unit="samples",
        steps=tuple(range(len(course))),
        losses=course,
        heads={"near": Accuracy((0, 1), (0.0, 2.0), (5.0, 5.0))},
        ended="steps",
        look=look,
        drive=drive,
    )


@pytest.mark.parametrize(
    ("tried", "code"),
    [
        (Settled(60, 0.03, 0.001, 0.4, 1.0), "FIT010"),
        (Settled(60, 0.03, 0.001, 0.4, 0.4), "FIT002"),  # no more is right
        (Settled(60, 0.03, 0.02, 0.4, 1.0), "FIT002"),
        (Settled(60, 0.3, 0.03, 0.0, 1.0), "FIT002"),  # the whole rate throws it, as none did
    ],
)
def test_a_loss_that_a_tenth_of_the_rate_brings_down_at_once_had_too_large_a_step(
    tried: Settled, code: str
) -> None:
    look = Look(noise=0.0, reading=0.5, moved=1.0, size=1.0, trials=Trials(settled=tried))
    assert Look.from_json(look.as_json()) == look
    lead = outcome(curves(look)).findings[0]
    assert lead.code == code
    assert ("steps at a tenth of the learning rate" in lead.message) == (code == "FIT010")


@pytest.mark.parametrize(
    ("make", "direct"),
    [
        (lambda ps: Signed(ps, lr=0.01, weight_decay=0.01), True),
        (lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1), True),
        (lambda ps: torch.optim.SGD(ps, lr=0.01, weight_decay=0.1), True),
        (lambda ps: torch.optim.Adam(ps, lr=0.01, weight_decay=0.1), False),
        (lambda ps: torch.optim.RMSprop(ps, lr=0.01, weight_decay=0.1), False),
        (lambda ps: torch.optim.Adam(ps, lr=0.01), None),
    ],
)
def test_a_step_without_gradient_tells_how_decay_is_taken(make: Make, direct: bool | None) -> None:
    one = subject(make)
    before = kept_start(one.model)
    assert is_direct(one) is direct
    assert all(torch.equal(v, before[k]) for k, v in one.model.state_dict().items())
    assert all(each.grad is None for each in one.model.parameters())


@pytest.mark.parametrize(
    ("direct", "decay", "told"), [(True, 0.01, 0), (True, 2.0, 1), (False, 0.01, 1)]
)
def test_decay_beside_a_step_of_one_size_holds_only_what_is_forgotten(
    direct: bool, decay: float, told: int
) -> None:
    look = Look(noise=0.0, reading=0.5, moved=1.0, size=1.0, trials=Trials(direct=direct))
    drive = Drive(81, 81, rate=0.01, decay=decay, decayed=7.0, gradient=0.4, energy=90.0)
    assert len(list(DecayHolds().judge(curves(look, drive)))) == told


@pytest.mark.parametrize(
    ("make", "swamped"),
    [
        (lambda ps: torch.optim.Adam(ps, lr=1e-3, eps=10.0), True),
        (lambda ps: torch.optim.NAdam(ps, lr=1e-3, eps=10.0), True),
        (lambda ps: torch.optim.RMSprop(ps, lr=1e-3, eps=10.0), True),
        (lambda ps: torch.optim.Adagrad(ps, lr=1e-3, eps=1e3), True),
        (lambda ps: torch.optim.AdamW(ps, lr=1e-3), False),
        (lambda ps: torch.optim.Adam(ps, lr=1e-3, eps=1e-6), False),
        (lambda ps: torch.optim.Adadelta(ps, eps=1.0), None),
        (lambda ps: torch.optim.SGD(ps, lr=1e-3), None),
    ],
)
def test_an_eps_above_the_size_of_the_gradients_swamps_the_step(
    make: Make, swamped: bool | None
) -> None:
    one = subject(make)
    optimizer = make(one.model.parameters())
    for batch in one.batches:
        optimizer.zero_grad()
        one.loss(one.model, batch).backward()
        optimizer.step()
    left = eps_of(optimizer).get("swamped")
    assert (None if swamped is None else left is not None and left <= 0.1) == swamped


def test_a_loss_that_an_eps_keeps_falling_slowly_says_so() -> None:
    slow = tuple(1.4 - 0.001 * i for i in range(100))
    drive = Drive(100, 100, rate=1e-3, eps=1.0, swamped=1e-3)
    look = Look(noise=0.0, reading=0.5, moved=0.01, size=1.0)
    (one,) = TooSlow().judge(curves(look, drive, slow))
    assert "since an eps of 1 is added to what the optimizer divides by" in one.message
    assert one.fix.startswith("Leave `eps` at its default")


def narrow(width: int, behind: nn.Module, skip: bool = False) -> nn.Module:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(6, 32), nn.GELU())
            self.modes = nn.Linear(32, width)
            self.behind = behind
            self.last = nn.Linear(width, 5)
            self.beside = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            out = self.last(self.behind(self.modes(self.first(x))))
            return out + torch.tanh(self.beside(x)) if skip else out

    return Narrow()


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (narrow(2, nn.Identity()), 2),
        (narrow(3, nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 3))), 3),
        (narrow(2, nn.ReLU()), None),
        (narrow(2, nn.Identity(), skip=True), None),
        (narrow(5, nn.Identity()), None),
    ],
    ids=["one", "three", "relu", "skip", "wide"],
)
def test_few_numbers_in_front_of_affine_maps_leave_the_best_affine_space(
    model: nn.Module, width: int | None
) -> None:
    one = subject(lambda ps: torch.optim.Adam(ps, lr=1e-2), model, wide=5)
    found = bottleneck(one, one.batches)
    assert (None if found is None else (found.site, found.width)) == (
        None if width is None else ("modes", width)
    )
    if found is not None:
        end = trained(one, 3000)
        now = bottleneck(end, end.batches)
        assert now is not None
        assert now.least == pytest.approx(found.least)
        assert now.now == pytest.approx(found.least, rel=0.1)
        look = Look(noise=0.0, reading=0.5, moved=1.0, size=1.0, trials=Trials(bottleneck=now))
        lead = outcome(curves(look)).findings[0]
        assert (lead.code, lead.site) == ("FIT002", "modes")
        assert "no weights bring the mean squared error below" in lead.message


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 2)
        self.mean = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_copy_is_named_only_where_the_trained_weights_make_more_right_in_its_place() -> None:
    one = subject(lambda ps: torch.optim.Adam([*ps][:2], lr=1e-2), Averaged())
    began = kept_start(one.model)
    for batch in one.batches:
        batch["y"] = one.model(batch["x"]).detach() + 1.0
    with torch.no_grad():
        one.model.net.bias += 1.0

    def of_mean(model: Any, batch: Batch) -> Ratio:
        off = (model.mean(batch["x"]) - batch["y"]).abs().amax(-1)
        return Ratio((off < 0.05).sum(), len(off))

    ended = kept_start(one.model)
    read = replace(one, metrics={"mean": of_mean})
    found = lagging(read, one.batches, began)
    assert found is not None
    assert (found.site, found.of, found.way) == ("mean", "net", 0.0)
    assert (found.before, found.after, found.count) == (0, 8, 8)
    assert all(torch.equal(v, ended[k]) for k, v in one.model.state_dict().items())
    other = replace(one, metrics={"net": lambda m, b: Ratio((m(b["x"]) > 9).all(-1).sum(), 4)})
    assert lagging(other, one.batches, began) is None  # as a target network that is not evaluated
