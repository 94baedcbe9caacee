"""What the watch records of a loop that is not ours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.causes import RULES as CAUSES
from nan_watch.flags import BLOCK, Flags, read
from probes.record import Recorder
from probes.run import Run


def value(run: Run, kind: str, stat: str, site: str, step: int) -> float:
    frame = run.readings(kind, stat)
    return float(frame[(frame.site == site) & (frame.step == step)].value.iloc[0])


def test_readings_are_the_numbers_of_the_step(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    tagger.eval()
    ids = torch.arange(6).reshape(2, 3)
    with NanWatch(tagger, optimizer, parameter_hooks=True) as watch:
        loss = tagger(ids).square().mean()
        expected = tagger(ids).abs().max().item()
        watch.backward(loss)
        norm = tagger.head.weight.grad.norm().item()
        weights = tagger.embedding.weight.detach().clone()
        optimizer.step()
        moved = (tagger.embedding.weight - weights).norm() / weights.norm()
    run = watch.run
    assert run.complete
    assert value(run, "output", "abs_max", "head", 0) == pytest.approx(expected)
    assert value(run, "output", "abs_max", "model", 0) == pytest.approx(expected)
    assert value(run, "param_grad", "norm", "head.weight", 0) == pytest.approx(norm)
    assert value(run, "param_grad", "norm_before_clip", "head.weight", 0) == pytest.approx(norm)
    assert value(run, "loss", "value", "<loss>", 0) == pytest.approx(loss.item())
    assert value(run, "update", "ratio", "embedding.weight", 0) == pytest.approx(moved.item())
    kinds = {(row["kind"], row["site"]) for row in run.sites}
    assert {("output", "lstm[1][0]"), ("output_grad", "lstm[0]")} <= kinds


def test_clipping_is_recorded_before_and_after_from_one_computation(
    tagger: Any, train: Any
) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer) as watch:
        train(tagger, optimizer, 2, watch=watch, clip=0.01)
    norms = watch.run.matrix("param_grad", "norm").values
    before = watch.run.matrix("param_grad", "norm_before_clip").values
    total = watch.run.matrix("clip", "total_norm").values
    factor = watch.run.matrix("clip", "factor").values
    assert np.allclose(total[:, 0], np.sqrt((before**2).sum(1)))
    assert np.allclose(np.sqrt((norms**2).sum(1)), 0.01, rtol=1e-3)
    assert np.allclose(norms, before * factor)


def test_of_several_clippings_the_norms_before_the_first_are_kept(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer) as watch:
        tagger(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
        before = [parameter.grad.norm().item() for parameter in tagger.parameters()]
        watch.clip_grad_norm_(0.1, tagger.lstm.parameters())
        watch.clip_grad_norm_(0.2, tagger.head.parameters())
        after = [parameter.grad.norm().item() for parameter in tagger.parameters()]
        optimizer.step()
    assert np.allclose(watch.run.matrix("param_grad", "norm_before_clip").values[0], before)
    assert np.allclose(watch.run.matrix("param_grad", "norm").values[0], after)


def test_a_parameter_group_added_later_keeps_every_column_its_own(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.head.parameters(), lr=0.0)
    extra = nn.Parameter(torch.ones(2))
    with NanWatch(tagger, optimizer) as watch:
        for step in range(2):
            (tagger(torch.zeros(1, 3, dtype=torch.long)).sum() + 3 * extra.sum()).backward()
            optimizer.step()
            if step == 0:
                tagger._modules = {"early": nn.Linear(2, 2), **tagger._modules}
                optimizer.add_param_group({"params": [extra, *tagger.early.parameters()]})
                tagger.zero_grad(set_to_none=True)
                extra.grad = None
    norms = watch.run.matrix("param_grad", "norm")
    by_name = dict(zip(norms.sites, norms.values.T.tolist(), strict=True))
    assert by_name["head.bias"] == pytest.approx([math.sqrt(5 * 9)] * 2)
    assert by_name["<optimizer>[1][0]"][1] == pytest.approx(math.sqrt(2 * 9))


def test_what_did_not_run_is_not_seen_and_not_zero(tagger: Any) -> None:
    model = nn.ModuleDict({"tagger": tagger, "spare": nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer) as watch:
        for step in range(2):
            optimizer.zero_grad()
            used = model["tagger"] if step else model["tagger"].head
            used(torch.zeros(1, 3, dtype=torch.long) if step else torch.ones(1, 8)).sum().backward()
            optimizer.step()
    output = watch.run.matrix("output", "abs_max")
    norms = watch.run.matrix("param_grad", "norm")
    seen = dict(zip(output.sites, output.seen.T.tolist(), strict=True))
    assert seen["tagger.head"] == [True, True]
    assert seen["tagger.embedding"] == [False, True]
    assert "spare" not in seen
    by_name = dict(zip(norms.sites, norms.seen.T.tolist(), strict=True))
    assert by_name["spare.weight"] == [False, False]
    assert by_name["tagger.embedding.weight"] == [False, True]


def test_a_module_called_often_keeps_its_largest_number_and_its_nan() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with NanWatch(model, optimizer, on_poison="skip") as watch:
        for numbers in ([1.0, 7.0, 3.0], [1.0, math.nan, 3.0], [-9.0, 2.0]):
            sum(model(torch.tensor([[n]])).sum() for n in numbers).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
    row = watch.run.matrix("output", "abs_max").values[:, 0]
    assert row[0] == 7.0
    assert math.isnan(row[1])
    assert row[2] == 9.0


def test_micro_batches_belong_to_the_step_that_they_feed(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer) as watch:
        for _ in range(2):
            for part in range(3):
                loss = tagger(torch.full((1, 3), part)).square().mean()
                watch.backward(loss / 3)
            optimizer.step()
            optimizer.zero_grad()
    assert watch.steps == 2
    assert watch.run.matrix("loss", "value").steps.tolist() == [0, 1]


def test_a_step_of_the_users_own_has_its_loss_in_the_record(tagger: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = tagger(torch.zeros(1, 3, dtype=torch.long)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    with NanWatch(tagger, optimizer) as watch:
        losses = [watch.step(step).item() for _ in range(3)]
    matrix = watch.run.matrix("loss", "value")
    assert matrix.steps.tolist() == [0, 1, 2]
    assert np.allclose(matrix.values[:, 0], losses)
    assert watch.loss == pytest.approx(losses[-1])


def test_sentinel_hooks_no_module_and_still_stops(tagger: Any, train: Any, poison: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer, "sentinel"):
        assert not any(module._forward_hooks for module in tagger.modules())
    watch = NanWatch(tagger, optimizer, "sentinel")
    with pytest.raises(PoisonedStep, match="the site is not known"), watch:
        train(tagger, optimizer, 3, poison(1), watch)
    assert {row["kind"] for row in watch.run.sites} == {"loss", "param_grad", "update"}


def test_every_hook_is_off_after_the_block_and_nobody_elses(tagger: Any, train: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    calls: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    theirs = tagger.head.register_forward_hook(lambda *_: calls.append(2))

    def stumble(logits: torch.Tensor, step: int) -> torch.Tensor:
        return logits.sum() if step < 2 else logits[step * 10]

    with pytest.raises(IndexError), NanWatch(tagger, optimizer) as watch:
        train(tagger, optimizer, 3, stumble, watch)
    assert calls == [2, 1, 2, 1, 2]
    assert list(tagger.head._forward_hooks.values()) == [theirs.hooks_dict_ref()[theirs.id]]
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 0
    assert watch.run.facts["settings"]["ended_by"] == "IndexError"


def test_a_registration_that_fails_half_way_leaves_no_hook(tagger: Any) -> None:
    class Stubborn(torch.optim.SGD):
        def register_step_post_hook(self, hook: object) -> Any:
            raise RuntimeError("no hooks here")

    optimizer = Stubborn(tagger.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="no hooks here"):
        NanWatch(tagger, optimizer).__enter__()
    assert not any(module._forward_hooks for module in tagger.modules())
    assert len(optimizer._optimizer_step_pre_hooks) == 0


def test_nested_watches_see_the_same(tagger: Any, train: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    with NanWatch(tagger, optimizer) as outer, NanWatch(tagger, optimizer) as inner:
        train(tagger, optimizer, 2)
    for kind, stat in (("output", "abs_max"), ("param_grad", "norm")):
        left, right = outer.run.matrix(kind, stat), inner.run.matrix(kind, stat)
        assert left.sites == right.sites
        assert np.array_equal(left.values, right.values)


def test_an_open_recorder_is_written_to_and_left_open(tagger: Any, train: Any) -> None:
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.1)
    recorder = Recorder(Path("mine"))
    with NanWatch(tagger, optimizer, out=recorder) as watch:
        train(tagger, optimizer, 2, watch=watch)
    assert not watch.run.complete
    recorder.close(watch.judgement)
    assert watch.run.complete
    assert watch.run.judgement.passed == tuple(cause.code for cause in CAUSES)


def test_weights_of_zero_have_no_ratio_and_raise_no_alarm() -> None:
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    ratios = watch.run.readings("update", "ratio")
    assert set(ratios[ratios.step == 0].site) == {"weight"}
    assert set(ratios[ratios.step == 1].site) == {"weight", "bias"}
    assert watch.findings == ()


def test_updates_of_a_large_parameter_are_judged_by_even_blocks() -> None:
    model = nn.Embedding(3000, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer) as watch:
        (model.weight.square().sum() / 2).backward()
        optimizer.step()
    assert value(watch.run, "update", "ratio", "weight", 0) == pytest.approx(0.1, rel=1e-3)


def test_sparse_gradients_empty_integer_and_complex_outputs_are_taken() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                "empty": x[:0],
                "whole": x.long(),
                "half": x.half(),
                "wave": torch.complex(x, -2 * x),
                "wide": x.double() * 1e300,
            }

    model = nn.ModuleDict({"table": nn.Embedding(5, 2, sparse=True), "odd": Odd()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with NanWatch(model, optimizer) as watch:
        x = model["table"](torch.tensor([1, 1, 3]))
        (x.sum() + model["odd"](x.abs() + 1)["wave"].abs().sum() * 0).backward()
        optimizer.step()
    run = watch.run
    sites = {row["site"] for row in run.sites if row["kind"] == "output"}
    assert sites == {"table", "odd.half", "odd.wave", "odd.wide"}
    expected = model["table"].weight.grad.coalesce().values().norm().item()
    assert value(run, "param_grad", "norm", "table.weight", 0) == pytest.approx(expected)
    assert math.isfinite(value(run, "output", "abs_max", "odd.wide", 0))
    assert watch.findings == ()


def test_many_sightings_wait_in_few_tensors() -> None:
    flags = Flags()
    for number in range(BLOCK):
        flags.see(number, torch.tensor([float(number), -1.0]))
    assert len(flags.waiting) < 10
    sightings = flags.take(read([flags.waiting])[0])
    assert sightings.numbers.tolist() == list(range(BLOCK))
    assert sightings.abs_max.tolist() == [1.0, *map(float, range(1, BLOCK))]


def test_a_tensor_seen_twice_is_passed_once_unless_it_changed() -> None:
    flags, tensor = Flags(), torch.ones(3)
    flags.see(0, tensor)
    flags.see(1, tensor)
    tensor.mul_(5)
    flags.see(2, tensor)
    assert sum(each.numel() for each in flags.waiting) == 2 * 2
    assert flags.take(read([flags.waiting])[0]).high.tolist() == [1.0, 1.0, 5.0]


def test_what_differs_in_kind_from_the_first_tensor_keeps_its_place_in_the_order() -> None:
    flags = Flags()
    with torch.inference_mode():
        flags.see(0, torch.tensor([1.0, -1.0]))
    tensors = [
        torch.tensor([2.0, -2.0], dtype=torch.float64),
        torch.tensor([3.0, -3.0]),
        torch.tensor([4.0, -4.0], dtype=torch.bfloat16),
        torch.tensor([5.0, math.nan]),
        torch.tensor([]),
        torch.tensor([6.0, -math.inf]),
    ]
    for number, tensor in enumerate(tensors, 1):
        flags.see(number, tensor)
    sightings = flags.take(read([flags.waiting])[0])
    assert sightings.numbers.tolist() == [0, 1, 2, 3, 4, 6]
    np.testing.assert_array_equal(sightings.high, [1, 2, 3, 4, math.nan, 6])
    np.testing.assert_array_equal(sightings.low, [-1, -2, -3, -4, math.nan, -math.inf])


def test_the_numbers_of_a_step_outlive_the_next_step() -> None:
    flags = Flags()
    taken = []
    for step in range(3):
        flags.see(0, torch.ones(2, dtype=torch.float64))
        flags.see(0, torch.full((2,), float(step), dtype=torch.float64))
        taken.append(flags.take(read([flags.waiting])[0]))
    assert [each.high.tolist() for each in taken] == [[1.0, step] for step in range(3)]
