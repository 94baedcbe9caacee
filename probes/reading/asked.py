"""Tables that a model looks vectors up in, and the rows that it asks them for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.execution import Event
from probes.experiment import Experiment, with_leaf
from probes.finding import ExperimentError
from probes.modules import every_module
from probes.reading.alive import Alive, alive
from probes.reading.indexing import Pick


@dataclass(frozen=True)
class Asked:
    """A table of so many rows.

    name: of the embedding, or of the parameter or buffer that the code looks up by itself.
    site: the module that holds it. line: of the code that looks it up, where that is no module.
    """

    name: str
    site: str
    rows: int
    line: str | None = None

    @property
    def is_module(self) -> bool:
        """Whether an embedding of torch holds it."""
        return self.name == self.site

    def given(self, experiment: Experiment, ids: Tensor) -> list[Tensor]:
        """(id,) the rows asked for in place of the ids, where as many are asked for."""
        if self.is_module:
            return list(_of_module(experiment.evaluated.ran.events, self.name, ids))
        return list(_of_picks(experiment, alive(experiment), self.name, ids))

    def given_others(self, experiment: Experiment, key: str, ids: Tensor) -> list[Tensor]:
        """The same with other ids in the key; nothing where the code raises on them."""
        other = with_leaf(experiment.batch, key, ids)
        try:
            if self.is_module:
                return list(_of_module(experiment.evaluate(other).events, self.name, ids))
            return list(_of_picks(experiment, alive(experiment, other), self.name, ids))
        except ExperimentError:
            return []


def tables(experiment: Experiment) -> Iterator[Asked]:
    """Embeddings of torch, then all that is looked up by its first axis, whoever holds it."""
    model = experiment.subject.model
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield Asked(name, name, module.num_embeddings)
    root = next(every_module(model))[0]
    try:
        looked_up = _looked_up(experiment, alive(experiment))
    except ExperimentError:
        return  # the loss may be out of use
    for name, pick in looked_up.items():
        yield Asked(name, name.rpartition(".")[0] or root, len(pick.source), pick.line)


def _looked_up(experiment: Experiment, seen: Alive) -> dict[str, Pick]:
    """By the name of what the model holds, the first time that rows of it were picked."""
    model = experiment.subject.model
    held = {id(t): name for name, t in (*model.named_buffers(), *model.named_parameters())}
    found: dict[str, Pick] = {}
    for pick in (*seen.looked_up, *seen.picks):
        name = held.get(id(pick.source))
        if name is not None and pick.axis == 0 and not pick.rows and pick.index.ndim:
            found.setdefault(name, pick)
    return found


def _of_module(events: Iterable[Event], name: str, ids: Tensor) -> Iterator[Tensor]:
    for each in events:
        value = each.value if each.module == name and each.kind is Kind.INPUT else None
        if value is not None and value.numel() == ids.numel() and not value.is_floating_point():
            yield value.flatten().to(ids.dtype)


def _of_picks(experiment: Experiment, seen: Alive, name: str, ids: Tensor) -> Iterator[Tensor]:
    model = experiment.subject.model
    held = dict(model.named_parameters()) | dict(model.named_buffers())
    for pick in (*seen.looked_up, *seen.picks):
        mine = pick.source is held.get(name) and pick.axis == 0 and not pick.rows
        if mine and pick.op != "aten.gather" and pick.index.numel() == ids.numel():
            yield pick.index.flatten().to(ids.dtype)


def ids_beyond(ids: Tensor, rows: int) -> Tensor:
    """True where an id has no row of its own."""
    return (ids < 0) | (ids >= rows)


def is_ids(tensor: Tensor) -> bool:
    """Whether a key may hold ids."""
    return tensor.ndim > 0 and tensor.dtype in (torch.int64, torch.int32)
