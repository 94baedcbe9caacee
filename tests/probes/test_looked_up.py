"""What is looked up beside an input and scored against nothing is no label of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Tables(nn.Module):
    """Users and items in tables, whose product with a matrix is what is ranked by."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(6, 8), nn.Embedding(20, 8)
        self.mix, self.popular = nn.Linear(8, 8), nn.Parameter(torch.zeros(20))
        self.register_buffer("fixed", torch.randn(20, 8))

    def forward(self, user: Tensor) -> Tensor:
        scores: Tensor = self.mix(self.users(user)) @ self.items.weight.t()
        return scores


def pairwise(model: Tables, b: Batch) -> Tensor:
    user = model.mix(model.users(b["user"]))
    one, two = ((user * model.items(b[key])).sum(-1) for key in ("item", "other"))
    return F.softplus(two - one).mean()


def spread(model: Tables, b: Batch) -> Tensor:
    """The items are rows of a product, with a number each beside."""
    table = model.items.weight + 0.1 * model.items.weight.tanh()
    user = model.mix(model.users(b["user"]))
    one, two = ((user * table[b[k]]).sum(-1) + model.popular[b[k]] for k in ("item", "other"))
    return F.softplus(two - one).mean()


def sampled(model: Tables, b: Batch) -> Tensor:
    items = model.items(torch.stack([b["item"], b["other"]], 1))
    scores = (items @ model.mix(model.users(b["user"])).unsqueeze(-1)).squeeze(-1)
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


def in_batch(model: Tables, b: Batch) -> Tensor:
    scores = model.mix(model.users(b["user"])) @ model.items(b["item"]).t()
    same = (b["item"][:, None] == b["item"]) & ~torch.eye(len(scores), dtype=torch.bool)
    return F.cross_entropy(scores.masked_fill(same, -1e4), torch.arange(len(scores)))


def near(model: Tables, b: Batch) -> Tensor:
    user, one, two = model.mix(model.users(b["user"])), b["item"], b["other"]
    return F.triplet_margin_loss(user, model.items(one), model.items(two))


def classed(model: Tables, b: Batch) -> Tensor:
    """A class whose row is looked up for a penalty as well."""
    drawn = model.items(b["item"]).square().mean()
    return F.cross_entropy(model(b["user"]), b["item"]) + 0.01 * drawn


def by_hand(model: Tables, b: Batch) -> Tensor:
    chances = model(b["user"]).log_softmax(-1)
    drawn = model.items(b["item"]).square().mean()
    return 0.01 * drawn - chances.gather(1, b["item"][:, None]).mean()


def of_rows(model: Tables, b: Batch) -> Tensor:
    """A table that does not learn holds what is wanted of each class."""
    wanted: Tensor = model.fixed[b["item"]]  # type: ignore[index]
    return F.mse_loss(model.mix(model.users(b["user"])), wanted)


@pytest.mark.parametrize("loss", [pairwise, spread, sampled, in_batch, near])
def test_ids_that_are_looked_up_and_scored_against_nothing_are_no_labels(
    loss: Callable[[Tables, Batch], Tensor],
) -> None:
    assert told(loss) == 0


@pytest.mark.parametrize("loss", [classed, by_hand, of_rows])
def test_classes_of_scores_are_labels_though_they_are_looked_up_as_well(
    loss: Callable[[Tables, Batch], Tensor],
) -> None:
    assert told(loss) == 1


def told(loss: Callable[[Tables, Batch], Tensor]) -> int:
    seed_everything(0)
    user = torch.randint(0, 6, (32,))
    batch = {
        "user": user,
        "item": (user * 3 + torch.randint(0, 4, (32,))) % 20,
        "other": torch.randint(0, 20, (32,)),
    }
    subject = Subject(
        Tables(),
        [{key: value[i : i + 8] for key, value in batch.items()} for i in range(0, 32, 8)],
        loss,  # type: ignore[arg-type]
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        predict=lambda model, b: model(b["user"]),
    )
    return len(check(subject, chosen(only=["LBL006"])).findings)
