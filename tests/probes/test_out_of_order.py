"""Losses that sort samples and leave something of them in the order of the batch (IDX002)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.experiment import Experiment
from probes.finding import Verdict
from probes.scoring.out_of_order import out_of_order

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Net(nn.Module):
    """One number a sample; a state that is carried from batch to batch, where asked for."""

    def __init__(self, packs: bool = False) -> None:
        super().__init__()
        self.lift = nn.Linear(5, 8)
        self.score = nn.Linear(8, 1)
        self.packs = packs

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort(descending=True) if self.packs else torch.arange(len(x))
        hidden = self.lift(x[order]).tanh()
        return self.score(hidden[order.argsort()]).squeeze(-1)


def cox(h: Tensor, batch: Batch) -> Tensor:
    order = batch["duration"].argsort(descending=True)
    h, event = h[order], batch["event"][order]
    return -((h - h.logcumsumexp(0)) * event).sum() / event.sum()


def cox_ascending(h: Tensor, batch: Batch) -> Tensor:
    order = batch["duration"].argsort()
    h, event = h.index_select(0, order), batch["event"].gather(0, order)
    return -((h - h.flip(0).logcumsumexp(0).flip(0)) * event).sum() / event.sum()


def cox_put_back(h: Tensor, batch: Batch) -> Tensor:
    order = batch["duration"].argsort(descending=True)
    log_risk = h[order].logcumsumexp(0)[order.argsort()]
    return -((h - log_risk) * batch["event"]).mean()


def breslow(h: Tensor, batch: Batch) -> Tensor:
    """With durations that are often the same."""
    duration, order = batch["rounded"].sort(descending=True)
    h, event = h[order], batch["event"][order]
    at_risk = (duration[None, :] >= duration[:, None]).float()
    return -((h - (at_risk * h.exp()).sum(1).log()) * event).mean()


def tied(h: Tensor, batch: Batch) -> Tensor:
    """The same without a thought of ties."""
    return cox(h, {**batch, "duration": batch["rounded"]})


def list_mle(h: Tensor, batch: Batch) -> Tensor:
    ranked = h[batch["gain"].argsort(descending=True)]
    return (ranked.flip(0).logcumsumexp(0).flip(0) - ranked).mean()


def lambda_rank(h: Tensor, batch: Batch) -> Tensor:
    gain = batch["gain"]
    rank = h.argsort(descending=True).argsort()
    ideal = (gain.sort(descending=True).values / (torch.arange(len(h)) + 2.0).log2()).sum()
    discount = 1 / (rank + 2.0).log2()
    swap = (gain[:, None] - gain) * (discount[:, None] - discount)
    return (swap.abs() * F.softplus(h - h[:, None]) * (gain[:, None] > gain)).sum() / ideal


def hard(h: Tensor, batch: Batch) -> Tensor:
    each = F.binary_cross_entropy_with_logits(h, batch["event"], reduction="none")
    return each[each.argsort(descending=True)][:3].mean() + each.topk(2).values.mean()


def wasserstein(h: Tensor, batch: Batch) -> Tensor:
    return (h.sort().values - batch["gain"].sort().values).square().mean()


def matched(h: Tensor, batch: Batch) -> Tensor:
    """Each with what has its rank."""
    return (h - batch["gain"].sort().values[h.argsort().argsort()]).square().mean()


def lovasz(h: Tensor, batch: Batch) -> Tensor:
    errors, order = (1 - h * (2 * batch["event"] - 1)).sort(descending=True)
    truth = batch["event"][order]
    jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
    return errors.relu() @ torch.cat([jaccard[:1], jaccard.diff()])


def average_precision(h: Tensor, batch: Batch) -> Tensor:
    order = h.argsort(descending=True)
    event = batch["event"][order]
    precision = event.cumsum(0) / torch.arange(1, len(h) + 1)
    return -(precision * event * h[order].sigmoid()).sum() / event.sum()


def next_one(h: Tensor, batch: Batch) -> Tensor:
    """Neighbours as negatives, beside a loss that sorts."""
    return F.softplus(h.roll(1) - h).mean() + cox(h, batch)


def sorted_negatives(h: Tensor, batch: Batch) -> Tensor:
    """Neighbours as negatives, put in order as everything else."""
    order = batch["duration"].argsort()
    return (F.softplus(h.roll(1) - h)[order] * batch["event"][order]).mean()


def halves(h: Tensor, batch: Batch) -> Tensor:
    half = len(h) // 2
    return F.softplus(h[:half] - h[half : 2 * half]).mean() + wasserstein(h, batch)


def interleaved(h: Tensor, batch: Batch) -> Tensor:
    even = h[: len(h) // 2 * 2].view(-1, 2)
    return (even[:, 0] - even[:, 1]).square().mean() + list_mle(h, batch)


def by_difficulty(h: Tensor, batch: Batch) -> Tensor:
    """Each beside another of its kind, by an order, on purpose."""
    order = batch["gain"].argsort()
    return F.softplus(h[order] - h).mean() + cox(h, batch)


def negatives(h: Tensor, batch: Batch) -> Tensor:
    """Each beside its own, and beside another's by an order, on purpose."""
    other = batch["x"] @ torch.ones(5)
    positive, far = h * other, h * other[batch["gain"].argsort()]
    return F.softplus(far - positive).mean()


def shuffled(h: Tensor, batch: Batch) -> Tensor:
    order = torch.rand(len(h)).argsort()
    part = batch["event"][order]
    return F.binary_cross_entropy_with_logits(h, 0.7 * batch["event"] + 0.3 * part)


def in_lists(h: Tensor, batch: Batch) -> Tensor:
    """Each sample a list of its own."""
    scores, order = h[:, None] * batch["x"], batch["x"].abs().argsort(-1, descending=True)
    ranked = scores.gather(1, order)
    return (ranked.logcumsumexp(1) - ranked).mean() + F.softplus(h.roll(1) - h).mean()


def logged(h: Tensor, batch: Batch) -> Tensor:
    """What is only looked at goes by the batch, and samples by their neighbours."""
    with torch.no_grad():
        _ = (batch["event"][h.argsort()] * h).mean()
    return F.softplus(h.roll(1) - h).mean()


def events_alone(h: Tensor, batch: Batch) -> Tensor:
    event = batch["event"][batch["duration"].argsort(descending=True)]
    return -((h - h.logcumsumexp(0)) * event).sum() / event.sum()


def scores_alone(h: Tensor, batch: Batch) -> Tensor:
    h = h[batch["duration"].argsort(descending=True)]
    return -((h - h.logcumsumexp(0)) * batch["event"]).sum() / batch["event"].sum()


def scores_masked(h: Tensor, batch: Batch) -> Tensor:
    h = h[batch["duration"].argsort(descending=True)]
    return -(h - h.logcumsumexp(0))[batch["event"].bool()].mean()


def risk_alone(h: Tensor, batch: Batch) -> Tensor:
    order = batch["duration"].argsort(descending=True)
    log_risk = h.exp()[order].cumsum(0).log()
    return -((h - log_risk) * batch["event"]).sum() / batch["event"].sum()


def risk_of_scores(h: Tensor, batch: Batch) -> Tensor:
    log_risk = h[batch["duration"].argsort(descending=True)].logcumsumexp(0)
    return -((h - log_risk) * batch["event"]).sum() / batch["event"].sum()


def gains_left(h: Tensor, batch: Batch) -> Tensor:
    ranked, _ = h.sort(descending=True)
    return -(ranked.sigmoid() * batch["gain"] / (torch.arange(len(h)) + 2.0).log2()).sum()


def truth_left(h: Tensor, batch: Batch) -> Tensor:
    errors, _ = (1 - h * (2 * batch["event"] - 1)).sort(descending=True)
    truth = batch["event"]
    jaccard = 1 - (truth.sum() - truth.cumsum(0)) / (truth.sum() + (1 - truth).cumsum(0))
    return errors.relu() @ torch.cat([jaccard[:1], jaccard.diff()])


HEALTHY = [
    *(cox, cox_ascending, cox_put_back, breslow, tied, list_mle, lambda_rank, hard, wasserstein),
    *(matched, lovasz, average_precision, next_one, sorted_negatives, halves, interleaved),
    *(by_difficulty, negatives, shuffled, in_lists, logged),
]
SICK = [
    (events_alone, "`event` is put in that order, but what is made of what the model gives"),
    (scores_alone, "`event`, which meets it, stands as the batch does"),
    (scores_masked, "`event`, which meets it, stands as the batch does"),
    (risk_alone, "`output`, which meets it, stands as the batch does"),
    (risk_of_scores, "`output`, which meets it, stands as the batch does"),
]


def subject(of: Callable[[Tensor, Batch], Tensor], net: nn.Module | None = None) -> Subject:
    torch.manual_seed(0)
    duration = torch.rand(24) * 9
    batch = {
        "x": torch.randn(24, 5),
        "duration": duration,
        "rounded": (duration / 3).round(),
        "event": (torch.rand(24) < 0.6).float(),
        "gain": torch.rand(24) * 3,
    }
    return Subject(
        model=net or Net(),
        batches=[batch],
        loss=lambda m, b: of(m(b["x"]), b),
        optimizer=lambda m: torch.optim.Adam(m.parameters()),
        predict=lambda m, b: m(b["x"]),
    )


@pytest.mark.parametrize("of", HEALTHY, ids=lambda of: of.__name__)
def test_what_is_sorted_as_a_whole_is_silence(of: Callable[[Tensor, Batch], Tensor]) -> None:
    assert out_of_order(Experiment.of(subject(of))) is None


@pytest.mark.parametrize(("of", "words"), SICK, ids=[of.__name__ for of, _ in SICK])
def test_what_is_left_in_the_order_of_the_batch_is_told(
    of: Callable[[Tensor, Batch], Tensor], words: str
) -> None:
    judged = check(subject(of), chosen(["IDX002"]))
    [finding] = judged.findings
    assert finding.verdict is Verdict.WARN
    assert words in finding.message
    assert "test_out_of_order.py:" in str(finding.source)


@pytest.mark.parametrize(("of", "key"), [(gains_left, "`gain`"), (truth_left, "of the rest")])
def test_labels_that_are_left_are_told_beside_scores_that_are_sorted(
    of: Callable[[Tensor, Batch], Tensor], key: str
) -> None:
    found = out_of_order(Experiment.of(subject(of)))
    assert found is not None
    assert found.other.endswith(key)


def test_a_model_that_sorts_and_puts_back_is_silence_beside_neighbours() -> None:
    assert out_of_order(Experiment.of(subject(next_one, Net(packs=True)))) is None


def test_a_carried_state_is_silence() -> None:
    class Stream(Net):
        """Each row of the batch goes on from its row in the last."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.linspace(-2, 2, 24))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.get_buffer("kept")[: len(x)]

    assert out_of_order(Experiment.of(subject(events_alone, Stream()))) is None


def test_noise_is_no_order() -> None:
    def drawn(h: Tensor, batch: Batch) -> Tensor:
        return cox(h, batch) + (h - torch.randn(len(h))).square().mean()

    assert out_of_order(Experiment.of(subject(drawn))) is None
