"""A number that is not finite and makes the code raise; losses that a step does not return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from probes.errors import RequestError
from probes.finding import Finding
from probes.seeding import seed_everything
from probes.stepping.roots import noted_roots
from probes.subject import Subject


class Policy(nn.Module):
    """Spreads its choice over the actions that are open."""

    def __init__(self, guarded: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.guarded = guarded

    def forward(self, x: Tensor, alive: Tensor) -> Tensor:
        open_ = self.body(x).exp() * alive
        total = open_.sum(-1, keepdim=True)
        return open_ / (total.clamp(min=1e-6) if self.guarded else total)  # DIVISION


def line(mark: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(i for i, text in enumerate(lines, 1) if text.endswith(f"# {mark}"))


def batches(closed: int | None = 3) -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    found = [
        {"x": torch.randn(5, 4, generator=chance), "alive": torch.ones(5, 3)} for _ in range(6)
    ]
    if closed is not None:
        found[closed]["alive"][2] = 0
    return found


def likelihood(model: nn.Module, batch: Any) -> Tensor:
    p = model(batch["x"], batch["alive"])
    return -torch.distributions.Categorical(p, validate_args=True).log_prob(torch.zeros(5)).mean()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def found(subject: Subject) -> Finding:
    seed_everything(0)
    return hunt(subject, 6, Path("run")).judgement.findings[0]


def test_what_made_a_hunted_step_raise_is_a_finding() -> None:
    torch.manual_seed(0)
    finding = found(Subject(Policy(), batches(), likelihood, sgd))
    assert (finding.code, finding.op, finding.phase) == ("NAN004", "aten.div", "forward")
    assert (finding.step, finding.site) == (3, "model")
    assert str(finding.source).endswith(f":{line('DIVISION')}")
    assert finding.evidence[0].what == "the step raised"
    assert "ValueError" in str(finding.evidence[0].value)


def test_an_exception_that_no_number_led_to_goes_through() -> None:
    def breaks(model: nn.Module, batch: Any) -> Tensor:
        if float(batch["alive"].min()) == 0:
            raise ValueError("a shape of the user's own")
        return model(batch["x"], batch["alive"]).square().mean()

    torch.manual_seed(0)
    with pytest.raises(RequestError, match="a shape of the user's own"):
        hunt(Subject(Policy(guarded=True), batches(), breaks, sgd), 6, Path("run"))


def test_a_plain_loop_keeps_its_exception_and_has_the_finding() -> None:
    torch.manual_seed(0)
    model = Policy()
    optimizer = sgd(model)

    def train() -> None:
        with NanWatch(model, optimizer, out="run"):
            for batch in batches():
                optimizer.zero_grad()
                likelihood(model, batch).backward()
                optimizer.step()

    with pytest.raises(ValueError, match="Expected parameter probs"):
        train()
    (finding, *_) = json.loads(Path("run/findings.json").read_text())["findings"]
    assert (finding["code"], finding["op"], finding["step"]) == ("NAN004", "aten.div", 3)


def test_a_step_that_is_skipped_on_poison_keeps_its_own_exception() -> None:
    torch.manual_seed(0)
    model = Policy()
    optimizer = sgd(model)
    batch = batches(closed=0)[0]
    with NanWatch(model, optimizer, on_poison="skip", out="run") as watch:
        with pytest.raises(ValueError, match="Expected parameter probs"):
            watch.step(lambda: likelihood(model, batch), batch=batch)
        assert [each.code for each in watch.findings] == ["NAN004"]


def test_a_loss_that_the_step_does_not_return_is_one_too() -> None:
    """The loss is infinite while every gradient is finite, and another is returned."""

    def step(model: nn.Module, batch: Any, optimizer: Any) -> Tensor:
        optimizer.zero_grad()
        p = model(batch["x"], torch.ones(5, 3))
        far = p.sum() * 0 + (1e20 if float(batch["alive"].min()) == 0 else 1.0)
        (p.mean() + far.square()).backward()
        optimizer.step()
        return p.detach().mean()

    torch.manual_seed(0)
    finding = found(Subject(Policy(), batches(), likelihood, sgd, train_step=step))
    assert (finding.phase, finding.step) == ("forward", 3)
    assert finding.op == "aten.pow"


def test_a_first_step_that_raises_after_a_nan_is_hunted(tmp_path: Path, whynan: Any) -> None:
    code = Path(__file__).read_text().split("class Policy")[1].split("def line")[0]
    (tmp_path / "train.py").write_text(
        "import torch\nfrom torch import Tensor, nn\nfrom probes import Subject\n\n\n"
        f"class Policy{code}"
        """
def loss(model, batch):
    p = model(batch["x"], batch["alive"])
    return -torch.distributions.Categorical(p).log_prob(torch.zeros(5)).mean()

def subject():
    batch = {"x": torch.randn(5, 4), "alive": torch.zeros(5, 3)}
    return Subject(Policy(), [batch], loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))

def broken():
    return Subject(Policy(), [{"x": torch.ones(5, 4)}], loss, subject().optimizer)
"""
    )
    done = whynan("hunt", "train.py:subject", "--out", "run")
    assert done.returncode == 1, done.stderr
    assert "NAN004 division-by-nothing" in done.stdout
    done = whynan("hunt", "train.py:broken", "--out", "other")
    assert done.returncode == 2
    assert "`Subject.loss` raised KeyError: 'alive'" in done.stderr
    assert not (tmp_path / "other").exists()


class Wrapper:
    """No Optimizer itself, and holds one."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def step(self) -> None:
        self.inner.step()


def test_an_optimizer_inside_a_class_of_the_users_own_is_guarded() -> None:
    torch.manual_seed(0)
    model = Policy()
    before = [p.detach().clone() for p in model.parameters()]
    wrapper: Any = Wrapper(sgd(model))
    with pytest.raises(PoisonedStep), NanWatch(model, wrapper, out="run"):  # noqa: PT012
        wrapper.zero_grad()
        (model(torch.ones(5, 4), torch.zeros(5, 3))).mean().backward()
        wrapper.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_holds_no_optimizer_is_refused_with_a_sentence() -> None:
    nothing: Any = object()
    with pytest.raises(RequestError, match="`optimizer` is a object, which neither is a torch"):
        NanWatch(Policy(), nothing)


def test_roots_are_noted_once_and_the_backward_pass_is_as_it_was() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    before, roots = torch.autograd.backward, []
    with noted_roots(roots.append):
        x.square().sum().backward()
        torch.autograd.backward([x.sum()], inputs=[x])
        x.square().backward(torch.ones(2))  # the part of a pass, which starts elsewhere
    assert torch.autograd.backward is before
    assert [float(root) for root in roots] == [5.0, 3.0]
    assert x.grad is not None
    assert x.grad.tolist() == [5.0, 9.0]
