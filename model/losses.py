"""The loss of a batch, and its two parts: keywords and units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from model.collate import IGNORED, Batch
from model.config import Config
from model.faults import Faults
from model.linearise import KEYWORDS
from model.parser import Parser, parser_of


@dataclass(frozen=True, slots=True)
class Parts:
    """Sums of the negative log-probability of gold steps, and how many there are."""

    key: Tensor
    db: Tensor
    key_count: Tensor
    db_count: Tensor


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The scalar that `config.loss` names, over the steps that have a label.

    sum: both parts together; key, db: one alone; these over all steps that have a label, or
    not divided where `reduction` is sum. by_count: each part over its own count. by_size: the
    mean with each part weighted by its share of it, so that the larger one leads.
    """
    parser = parser_of(model)
    return joined(parts(parser, batch), parser.config)


def key(model: nn.Module, batch: Batch) -> Tensor:
    """The mean over gold keywords."""
    found = parts(parser_of(model), batch)
    return found.key / found.key_count.clamp(min=1)


def db(model: nn.Module, batch: Batch) -> Tensor:
    """The mean over gold units."""
    found = parts(parser_of(model), batch)
    return found.db / found.db_count.clamp(min=1)


def parts(model: Parser, batch: Batch) -> Parts:
    """Both parts from one forward pass."""
    log_probs = model(batch)["log_probs"]
    return split(log_probs, batch["labels"], model.faults)


def split(log_probs: Tensor, labels: Tensor, faults: Faults) -> Parts:
    """The parts of these: log_probs (n, t, j, output), labels (n, t, j)."""
    given = labels != IGNORED
    gold = labels.masked_fill(~given, 0)[..., None]  # (n, t, j, 1)
    # where, not a product: nothing that a padded step gives, NaN or not, is in the sum
    surprise = -log_probs.gather(-1, gold)[..., 0]  # (n, t, j)
    is_key, is_db = given & (labels < len(KEYWORDS)), labels >= len(KEYWORDS)
    db_sum = surprise.where(is_db, 0.0).sum()
    if faults.key_drowns_db:
        db_sum = db_sum / log_probs.shape[-1]
    return Parts(surprise.where(is_key, 0.0).sum(), db_sum, is_key.sum(), is_db.sum())


def joined(found: Parts, config: Config) -> Tensor:
    """The loss that the configuration makes of the parts."""
    if config.loss == "by_count":
        key_mean = found.key / found.key_count.clamp(min=1)
        return key_mean + found.db / found.db_count.clamp(min=1)
    key_part, db_part = found.key, found.db
    if config.reduction == "mean":
        count = (found.key_count + found.db_count).clamp(min=1)
        key_part, db_part = key_part / count, db_part / count
    if config.loss == "key":
        return key_part
    if config.loss == "db":
        return db_part
    if config.loss == "by_size":
        whole = (key_part + db_part).detach().clamp(min=1e-12)
        return (key_part.detach() * key_part + db_part.detach() * db_part) / whole
    return key_part + db_part
