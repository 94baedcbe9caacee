from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from overfit.heads import Heads, undisturbed
from probes import Labels, Layout, Mask, Ratio, Subject
from probes.errors import RequestError


def subject_of(**more: Any) -> Subject:
    return Subject(
        nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4, bias=False)),
        [],
        lambda model, batch: model(batch["x"]).sum(),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        **more,
    )


def echo(subject: Subject) -> None:
    """The model's scores are its input."""
    with torch.no_grad():
        subject.model[1].weight.copy_(torch.eye(4))  # type: ignore[index, union-attr]


def scores(classes: list[list[int]]) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(classes), 4).float()


def by_layout(labels: Labels, masks: tuple[Mask, ...] = ()) -> Subject:
    subject = subject_of(
        predict=lambda model, batch: model(batch["x"]), layout=Layout(labels=(labels,), masks=masks)
    )
    echo(subject)
    return subject


def test_hits_and_counts_are_summed_over_the_batches() -> None:
    subject = subject_of(
        metrics={"head": lambda model, batch: Ratio(batch["right"], torch.tensor(batch["of"]))}
    )
    looked = Heads(subject, [{"right": 1, "of": 3}, {"right": 2, "of": 2}]).evaluate()
    assert (looked.hits, looked.counts) == ({"head": 3.0}, {"head": 5.0})
    assert not looked.perfect


def test_a_head_without_anything_to_count_is_no_reason_for_perfect() -> None:
    empty = subject_of(metrics={"head": lambda model, batch: (0, 0)})
    assert not Heads(empty, [{}]).evaluate().perfect
    both = subject_of(
        metrics={"head": lambda model, batch: (0, 0), "other": lambda model, batch: (2, 2)}
    )
    assert Heads(both, [{}]).evaluate().perfect


def test_parts_are_means_over_the_batches() -> None:
    subject = subject_of(parts={"key": lambda model, batch: torch.tensor(batch)})
    assert Heads(subject, [1.0, 3.0]).evaluate().parts == {"key": 2.0}


def test_evaluation_is_in_eval_mode_and_leaves_modes_and_generators_as_found() -> None:
    seen = []

    def metric(model: nn.Module, batch: Any) -> Ratio:
        seen.append((model.training, torch.is_grad_enabled()))
        random.random(), np.random.rand(), torch.rand(3)
        return Ratio(1, 1)

    subject = subject_of(metrics={"head": metric})
    subject.model[0].eval()  # type: ignore[index]
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    Heads(subject, [{}]).evaluate()
    assert seen == [(False, False)]
    assert [module.training for module in subject.model.modules()] == [True, False, True]
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_modes_come_back_after_an_exception() -> None:
    model = subject_of().model
    with pytest.raises(KeyError), undisturbed(model):
        raise KeyError
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (0.5, "`Subject.metrics['head']` returned a float, but a pair of hits and count"),
        (torch.zeros(3), "returned a tensor of shape (3,), but a pair"),
        ((3, 2), "returned 3 hits out of 2, but two numbers with 0 <= hits <= count"),
        ((float("nan"), 2), "returned nan hits out of 2"),
    ],
)
def test_a_metric_that_is_no_pair_is_refused(found: Any, sentence: str) -> None:
    subject = subject_of(metrics={"head": lambda model, batch: found})
    with pytest.raises(RequestError) as refusal:
        Heads(subject, [{}]).evaluate()
    assert sentence in str(refusal.value)


def test_labels_of_the_layout_are_counted_but_for_those_to_ignore() -> None:
    subject = by_layout(Labels("y", "output"))
    looked = Heads(
        subject, [{"x": scores([[1, 2, 3]]), "y": torch.tensor([[1, 0, -100]])}]
    ).evaluate()
    assert (looked.hits, looked.counts) == ({"y": 1.0}, {"y": 2.0})


@pytest.mark.parametrize(("shift", "hits"), [(0, 1), (1, 3), (-1, 0)])
def test_labels_are_shifted(shift: int, hits: int) -> None:
    batch = {"x": scores([[1, 2, 3, 3]]), "y": torch.tensor([[0, 1, 2, 3]])}
    looked = Heads(by_layout(Labels("y", "output", shift=shift)), [batch]).evaluate()
    assert looked.counts == {"y": 4.0 - abs(shift)}
    assert looked.hits == {"y": float(hits)}


@pytest.mark.parametrize(
    ("means", "mask"),
    [
        ("keep", torch.tensor([[1, 1, 0]])),
        ("hide", torch.tensor([[False, False, True]])),
        ("length", torch.tensor([2])),
    ],
)
def test_hidden_labels_do_not_count(means: Any, mask: torch.Tensor) -> None:
    subject = by_layout(
        Labels("y", "output", mask="m"), masks=(Mask("m", hides=("y",), means=means),)
    )
    batch = {"x": scores([[1, 2, 3]]), "y": torch.tensor([[1, 2, 3]]), "m": mask}
    assert Heads(subject, [batch]).evaluate().counts == {"y": 2.0}


def test_scores_may_have_their_classes_on_the_second_axis() -> None:
    subject = subject_of(
        predict=lambda model, batch: {"tags": model(batch["x"]).transpose(1, 2)},
        layout=Layout(labels=(Labels("y", "tags"),)),
    )
    echo(subject)
    batch = {"x": scores([[1, 2, 3], [0, 0, 1]]), "y": torch.tensor([[1, 2, 3], [0, 0, 0]])}
    assert Heads(subject, [batch]).evaluate().hits == {"y": 5.0}


def test_an_output_that_is_not_there_is_refused() -> None:
    subject = subject_of(
        predict=lambda model, batch: {"tags": model(batch["x"])},
        layout=Layout(labels=(Labels("y", "words"),)),
    )
    with pytest.raises(RequestError) as refusal:
        Heads(subject, [{"x": scores([[1]]), "y": torch.tensor([[1]])}]).evaluate()
    assert "names the output `words`, but `Subject.predict` returned tags" in str(refusal.value)


class Counting(nn.Linear):
    """Counts its calls."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


def test_several_accuracies_of_a_batch_cost_one_run_of_the_model() -> None:
    def plain(model: nn.Module, batch: Any) -> Ratio:
        return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), 4)

    def written_to(model: nn.Module, batch: Any) -> Ratio:
        return Ratio((model(batch["x"]).neg_().argmax(-1) == batch["y"]).sum(), 4)

    def of_a_copy(model: nn.Module, batch: Any) -> Ratio:
        other = copy.deepcopy(model)
        nn.init.zeros_(other.weight)
        nn.init.zeros_(other.bias)
        return Ratio((other(batch["x"]) == 0).all(-1).sum(), 4)

    def slope(model: nn.Module, batch: Any) -> Ratio:
        with torch.enable_grad():
            return Ratio(int(model(batch["x"]).requires_grad), 1)

    model = Counting(3, 3)
    batches = [{"x": torch.randn(4, 3), "y": torch.tensor([0, 1, 2, 0])} for _ in range(2)]
    metrics = {"a": plain, "b": plain, "worn": written_to, "copy": of_a_copy, "slope": slope}
    subject = replace(subject_of(metrics={**metrics, "c": plain}), model=model)
    looked = Heads(subject, batches).evaluate()
    assert looked.hits["a"] == looked.hits["b"] == looked.hits["c"]
    assert (looked.hits["copy"], looked.hits["slope"]) == (8, 2)
    # one for `a`, `b` and `worn`, which writes into it; one with gradients; one for `c`
    assert model.calls == 2 * 3
    assert "forward" not in vars(model)
