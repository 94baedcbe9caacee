"""Labels that stand in another order than their inputs, and those that only look so."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from probes import Subject
from probes.checks.label_order import LabelOrder
from probes.experiment import Experiment
from probes.finding import Finding
from probes.subject import Batch

COUNT = 160
CHANCE = torch.Generator().manual_seed(0)
BY_NAME = torch.tensor(sorted(range(COUNT), key=str))
KINDS = torch.randint(0, 4, (COUNT,), generator=CHANCE)
PICTURES = 0.5 * torch.randn(COUNT, 3, 8, 8, generator=CHANCE) + KINDS.view(-1, 1, 1, 1)
LABELS = torch.randint(0, 4, (COUNT,), generator=CHANCE)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=CHANCE)


class Sums(nn.Module):
    """Scores or values of ids or numbers, whatever their shape."""

    def __init__(self, ids: bool, outputs: int) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 8) if ids else None
        self.head = nn.LazyLinear(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is not None:
            x = self.table(x).mean(1)
        scores: Tensor = self.head(x.flatten(1))
        return scores


def found(batches: Iterable[Batch], held: Iterable[Batch] | None = None) -> list[Finding]:
    x, y = next(iter(batches))
    values = y.is_floating_point()
    model = Sums(not x.is_floating_point(), 1 if values else 11)
    model(x)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if values:
            return nn.functional.mse_loss(model(batch[0])[:, 0], batch[1])
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    subject = Subject(
        model, batches, loss, lambda m: torch.optim.Adam(m.parameters()), eval_batches=held
    )
    return list(LabelOrder().judge(Experiment.of(subject)))


def cut(x: Tensor, y: Tensor) -> list[Batch]:
    return list(zip(x.split(16), y.split(16), strict=True))


def ids() -> Tensor:
    """Words of which some go with a kind, of rows that are padded."""
    words = torch.randint(10, 64, (COUNT, 12), generator=CHANCE)
    words[:, :6] = 1 + KINDS[:, None] + torch.randint(0, 2, (COUNT, 6), generator=CHANCE)
    return words


SICK = {
    "names": (PICTURES[BY_NAME], KINDS, "inputs in that of names"),
    "numbers": (PICTURES, KINDS[BY_NAME], "labels in that of names"),
    "values": (PICTURES[BY_NAME], KINDS + 0.1 * noise(COUNT), "inputs in that of names"),
    "flat": (PICTURES.flatten(1)[BY_NAME], KINDS, "inputs in that of names"),
    "ids": (ids()[BY_NAME], KINDS, "inputs in that of names"),
    "reverse": (PICTURES.flip(0), KINDS, "reverse"),
    "late": (PICTURES, KINDS.roll(1), "1 place after"),
    "a batch before": (PICTURES, KINDS.roll(-16), "16 places before"),
}


@pytest.mark.parametrize("name", SICK)
def test_labels_in_another_order_are_told(name: str) -> None:
    x, y, words = SICK[name]
    (finding,) = found(cut(x, y))
    assert words in finding.message


def test_a_loader_that_shuffles_and_splits_is_read_in_the_order_of_its_data() -> None:
    one, two = random_split(TensorDataset(PICTURES[BY_NAME], KINDS), [100, 60])
    (finding,) = found(DataLoader(one, 16, shuffle=True), DataLoader(two, 16))
    assert f"of {COUNT} samples" in finding.message


def test_what_was_sorted_before_it_was_split_is_told() -> None:
    batches = cut(PICTURES[BY_NAME], KINDS)
    (finding,) = found(batches[:7], batches[7:])
    assert f"of {COUNT} samples" in finding.message


def drifting() -> Tensor:
    """Numbers that walk from sample to sample."""
    return noise(COUNT, 6).cumsum(0)


def windows() -> tuple[Tensor, Tensor]:
    """The last steps of a walk, and which way it goes next, of which they tell nothing."""
    steps = noise(COUNT + 8)
    return steps.unfold(0, 8, 1)[:COUNT], (steps[8 : 8 + COUNT] > 0).long()


def crossed() -> tuple[Tensor, Tensor]:
    """Voices that differ far more than what each of them says once."""
    who, what = torch.arange(COUNT) // 10, torch.arange(COUNT) % 10
    return 9 * noise(16, 40)[who] + noise(10, 40)[what] + 0.3 * noise(COUNT, 40), what


HEALTHY: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "as it should be": lambda: (PICTURES, KINDS),
    "both by name": lambda: (PICTURES[BY_NAME], KINDS[BY_NAME]),
    "labels by chance": lambda: (PICTURES, LABELS),
    "inputs by chance": lambda: (noise(COUNT, 3, 8, 8), KINDS),
    "ids by chance": lambda: (torch.randint(0, 64, (COUNT, 12), generator=CHANCE), LABELS),
    "inputs drift": lambda: (drifting(), LABELS),
    "inputs drift, labels in turn": lambda: (drifting(), torch.arange(COUNT) % 4),
    "both drift": lambda: (drifting(), drifting()[:, 0]),
    "labels in blocks": lambda: (noise(COUNT, 6), torch.arange(COUNT) // 40),
    "windows": windows,
    "crossed": crossed,
    "one kind is rare": lambda: (PICTURES, (torch.arange(COUNT) % 40 == 0).long()),
    "equal inputs": lambda: (torch.ones(COUNT, 6), KINDS),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_labels_that_go_with_no_order_or_with_their_own_are_silence(name: str) -> None:
    assert found(cut(*HEALTHY[name]())) == []
