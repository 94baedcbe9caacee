"""A plain loop whose loss code is sick: its own lines are run again, and name the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding

SICK = 3  # the step


def line(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    [number] = [i for i, text in enumerate(lines, 1) if text.endswith(f"# HERE {mark}")]
    return f"{__file__}:{number}"


def told(finding: Finding, what: str) -> Any:
    return next(each.value for each in finding.evidence if each.what.startswith(what))


def sgd(*models: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for each in models for p in each.parameters()], lr=0.01)


def pairs() -> Iterator[tuple[Tensor, Tensor]]:
    """Two sides; in the sick step one row of them is the same."""
    for step in range(SICK + 2):
        left, right = torch.randn(6, 4), torch.randn(6, 4)
        right[2] = left[2] if step == SICK else right[2]
        yield left, right


def apart(left: Tensor, right: Tensor) -> Tensor:
    return (left - right).square().sum(-1).sqrt().mean()  # HERE root


def refused(loop: Callable[[], Any]) -> Finding:
    with pytest.raises(PoisonedStep) as caught:
        loop()
    return caught.value.finding


def test_a_root_at_zero_in_the_loss_is_named_with_line_and_sample() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    optimizer, seen = sgd(model), []

    def loop() -> None:
        with NanWatch(model, optimizer):
            for left, right in pairs():
                optimizer.zero_grad()
                loss = apart(model(left), model(right))
                seen.append(loss)
                loss.backward()
                optimizer.step()

    finding = refused(loop)
    assert (finding.code, finding.source, finding.confirmed) == ("NAN002", line("root"), True)
    assert (finding.node, finding.step, finding.samples) == ("SqrtBackward0", SICK, (2,))
    assert told(finding, "the replay repeats") == "to the bit"
    assert len(seen) == SICK + 1  # what the lines added to is the loop's no more than once


def test_what_the_loop_prints_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(4, 3)
    optimizer = sgd(model)

    def loop() -> None:
        with NanWatch(model, optimizer):
            for step, (left, right) in enumerate(pairs()):
                optimizer.zero_grad()
                loss = apart(model(left), model(right))
                print("step", step)
                loss.backward()
                optimizer.step()

    refused(loop)
    assert capsys.readouterr().out.split() == [w for s in range(SICK + 1) for w in ("step", str(s))]


def test_a_target_without_gradients_from_a_list_of_models_is_named() -> None:
    torch.manual_seed(0)
    actor, critic = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizers = [sgd(critic), sgd(actor)]

    def loop() -> None:
        with NanWatch(nn.ModuleList([actor, critic]), optimizers):
            for step in range(SICK + 2):
                x = torch.randn(6, 4)
                x[4] = 900.0 if step == SICK else x[4]
                with torch.no_grad():
                    action = (actor(x).abs() + 0.5).tanh()
                    target = torch.log(1 - action) + torch.randn(6, 1)  # HERE edge
                loss = F.mse_loss(critic(x), target)
                optimizers[0].zero_grad()
                loss.backward()
                optimizers[0].step()
                gain = -critic(x).mean() * actor(x).mean()
                optimizers[1].zero_grad()
                gain.backward()
                optimizers[1].step()

    finding = refused(loop)
    assert (finding.code, finding.op, finding.source) == ("NAN001", "aten.log", line("edge"))
    assert finding.step == 2 * SICK


def train(model: nn.Module, optimizer: Any, left: Tensor, right: Tensor, weight: float) -> Tensor:
    optimizer.zero_grad()
    total = torch.zeros(())
    out = model(torch.cat([left, right]))
    for _ in range(2):
        noise = torch.randn(1)
        total = total + noise.abs() * apart(out[:6] + (left - right)[:, :3], out[:6])
    loss = sum([each * total for each in (0.5, weight)])
    loss.backward()
    optimizer.step()
    return loss


def leave(model: nn.Module, optimizer: Any, left: Tensor, right: Tensor, weight: float) -> Tensor:
    out = model(torch.cat([left, right]))
    if not isinstance(out, Tensor):
        return torch.zeros(())
    loss = weight * apart(out[:6], out[6:])
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("step", [train, leave])
def test_lines_of_a_function_run_on_its_names_and_from_its_random_state(step: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0 if step is leave else 0.3))
    optimizer = sgd(model)

    def loop() -> None:
        with NanWatch(model, optimizer):
            for left, right in pairs():
                step(model, optimizer, left, right, 2.0)

    finding = refused(loop)
    if step is train:
        assert (finding.code, finding.source) == ("NAN002", line("root"))
    else:  # it may return from between the two
        assert finding.op is None
        assert "outside of what can be replayed" in finding.message


def test_a_step_past_another_optimizer_is_not_run_again() -> None:
    """It would write what is not watched."""
    torch.manual_seed(0)
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer, theirs = sgd(model), sgd(other)
    after: list[Tensor] = []

    def loop() -> None:
        with NanWatch(model, optimizer):
            for left, right in pairs():
                optimizer.zero_grad()
                out = model(left), model(right)
                other(left).square().mean().backward()
                theirs.step()
                after[:] = [each.detach().clone() for each in other.parameters()]
                apart(*out).backward()
                optimizer.step()

    finding = refused(loop)
    assert "outside of what can be replayed" in finding.message
    assert all(map(torch.equal, after, other.parameters()))


def test_lines_that_come_to_another_number_tell_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer, given = sgd(model), pairs()

    def loop() -> None:
        with NanWatch(model, optimizer):
            for _ in range(SICK + 2):
                optimizer.zero_grad()
                out = model(torch.ones(6, 4))
                left, right = next(given)  # the lines would go on to the next of them
                (apart(left + out.sum(), right + out.sum())).backward()
                optimizer.step()

    finding = refused(loop)
    assert "outside of what can be replayed" in finding.message


def test_of_micro_batches_the_last_is_run_again_from_its_own_random_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    optimizer = sgd(model)

    def loop() -> None:
        with NanWatch(model, optimizer):
            for number, (left, right) in enumerate(pairs()):
                out = model(torch.cat([left, right]))
                loss = apart(out[:6] + (left - right)[:, :3], out[:6]) / 2
                loss.backward()
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()

    finding = refused(loop)
    assert (finding.code, finding.source, finding.step) == ("NAN002", line("root"), SICK // 2)
    assert told(finding, "the loop's own lines, run again").startswith("lines ")


def test_a_step_past_its_scaler_is_told_by_the_scale() -> None:
    """The model's part alone would be told to keep its operator in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=2.0**22)

    def loop() -> None:
        with NanWatch(model, optimizer):
            x, y = torch.randn(6, 4), torch.randint(3, (6,))
            with torch.autocast("cpu", dtype=torch.float16):
                scores = model(x)
            loss = F.cross_entropy(scores.float(), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scaler.update()

    finding = refused(loop)
    assert (finding.code, finding.phase, finding.confirmed) == ("NAN015", "backward", True)
    assert "scaler.step(optimizer)" in finding.fix


def test_lines_are_run_again_from_after_the_noise_that_a_first_call_is_given() -> None:
    """That noise is drawn before the call, so that the line of the call gives something else."""
    torch.manual_seed(0)
    maker, judge = nn.Linear(2, 4), nn.Linear(4, 3, bias=False)
    optimizer = sgd(judge)

    def loop() -> None:
        with NanWatch(nn.ModuleList([maker, judge]), [optimizer, sgd(maker)]):
            for step in range(SICK + 2):
                made = maker(torch.randn(6, 2)).detach()
                made[2] = made[2] * (step != SICK)
                loss = judge(made).square().sum(-1).sqrt().mean()  # HERE after noise
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    finding = refused(loop)
    assert (finding.code, finding.source) == ("NAN002", line("after noise"))
    assert finding.node == "SqrtBackward0"
    assert 2 in finding.where.values()
