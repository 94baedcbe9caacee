"""A poisoned step never reaches the weights, unless the user asks for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from probes.errors import RequestError

OPTIMIZERS: dict[str, Any] = {
    "sgd-momentum": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd-foreach": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, foreach=True),
    "sgd-fused": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=False),
    "adamw-foreach": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=True),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
}


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = [v for each in optimizer.state.values() for v in each.values() if v is not None]
    return [each.detach().clone() for each in [*model.parameters(), *state]]


@pytest.mark.parametrize("on_poison", ["raise", "skip"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_parameters_and_optimizer_state_stay_equal_to_the_bit(
    make: Any, on_poison: Any, train: Any, poison: Any, tagger: nn.Module
) -> None:
    optimizer = make(tagger.parameters())
    watch = NanWatch(tagger, optimizer, on_poison=on_poison)
    with watch:
        train(tagger, optimizer, 3, watch=watch)
        before = everything(tagger, optimizer)
        if on_poison == "skip":
            train(tagger, optimizer, 1, poison(3), watch, start=3)
            after = everything(tagger, optimizer)
    if on_poison == "raise":
        with pytest.raises(PoisonedStep), NanWatch(tagger, optimizer) as again:
            train(tagger, optimizer, 1, poison(0), again)
        after = everything(tagger, optimizer)
    assert len(before) == len(after) > len(list(tagger.parameters()))
    assert all(map(torch.equal, before, after))


def test_allow_lets_the_step_write_and_tells_one_story(
    train: Any, poison: Any, tagger: Any
) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer, on_poison="allow") as watch:
        train(tagger, optimizer, 6, poison(2), watch)
    assert all(parameter.isnan().any() for parameter in tagger.head.parameters())
    (finding,) = watch.findings
    assert (finding.step, finding.site, finding.phase) == (2, "<loss>", "forward")
    assert finding.evidence[-1].what == "poisoned steps like this one"
    assert finding.evidence[-1].value == 4


def test_skip_goes_on_counts_refused_steps_and_gives_up_after_ten_in_a_row(
    train: Any, poison: Any, tagger: Any
) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    watch = NanWatch(tagger, optimizer, on_poison="skip")
    with pytest.raises(PoisonedStep, match="the loss of step 15 is nan"), watch:
        train(tagger, optimizer, 40, poison(2, 3, *range(6, 30)), watch)
    assert watch.steps == 16  # steps 6 to 15 are ten in a row
    (finding,) = watch.findings
    assert (finding.step, finding.evidence[-1].value) == (2, 12)
    assert watch.run.steps.tolist() == list(range(16))


def test_the_message_is_the_finding_with_its_fix_and_the_run(
    train: Any, poison: Any, tagger: Any
) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with pytest.raises(PoisonedStep) as caught, NanWatch(tagger, optimizer) as watch:
        train(tagger, optimizer, 4, poison(1), watch)
    finding = caught.value.finding
    assert str(caught.value).splitlines() == [
        finding.message,
        f"fix: {finding.fix}",
        f"run: {watch.recorder.folder}",
    ]
    assert [each.message for each in watch.run.judgement.findings] == [finding.message]
    assert (watch.recorder.folder / "report.html").is_file()


def test_a_gradient_whose_norm_overflows_is_no_poison(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.0)
    with NanWatch(tagger, optimizer) as watch:
        tagger(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
        tagger.head.weight.grad.fill_(1e30)
        optimizer.step()
    assert watch.findings == ()


def test_a_gradient_of_a_parameter_that_the_optimizer_does_not_hold_is_none_of_its_matter(
    tagger: Any,
) -> None:
    optimizer = torch.optim.SGD(tagger.head.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer) as watch:
        tagger(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
        tagger.embedding.weight.grad[0] = float("nan")
        optimizer.step()
    assert watch.findings == ()


def test_a_gradient_changed_after_clipping_is_seen(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer, on_poison="skip") as watch:
        watch.backward(tagger(torch.zeros(1, 3, dtype=torch.long)).sum())
        watch.clip_grad_norm_(1.0)
        tagger.head.bias.grad.fill_(float("inf"))
        optimizer.step()
    (finding,) = watch.findings
    assert (finding.site, finding.phase) == ("head.bias", "backward")


def test_a_closure_is_guarded_after_it_has_run(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    weights = tagger.head.weight.detach().clone()

    def closure() -> Tensor:
        loss = tagger(torch.zeros(1, 3, dtype=torch.long)).sum() * float("inf")
        loss.backward()
        return loss

    with NanWatch(tagger, optimizer, on_poison="skip") as watch:
        optimizer.step(closure)
    assert len(watch.findings) == 1
    assert torch.equal(weights, tagger.head.weight)


def test_wrong_requests_are_told_in_a_sentence(tagger: Any) -> None:
    sgd = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with pytest.raises(RequestError, match="`tier` is 'deep', which is none of sentinel, sites"):
        NanWatch(tagger, sgd, tier="deep")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="`on_poison` is 'stop', which is none of raise, skip"):
        NanWatch(tagger, sgd, on_poison="stop")  # type: ignore[arg-type]
