"""Interactions as a batch: padded tensors, the sample axis first, and strings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.config import Config
from model.database import Database
from model.faults import Faults
from model.linearise import KEYWORDS
from model.naming import naming, stems
from model.pack import Packed, pack
from model.read import Corpus, Interaction, Turn
from model.vocabulary import Vocabulary, spoken

if TYPE_CHECKING:
    from model.cached import Cached, Entry

Batch = dict[str, Any]
IGNORED = -100
"""The label of a step that no loss looks at: padding, or a step that no output can produce."""
UNK = KEYWORDS.index("_UNK")
EOS = KEYWORDS.index("_EOS")
STAR, TABLE, COLUMN = 1, 2, 3
"""Kinds of unit; 0 is the utterance."""


class Collate:
    """Makes batches for a model; the same interactions always give the same batch.

    The axes are n sample, t turn, s input, l token, u unit, p word piece of a unit, w word piece
    of an utterance, j step. Masks are true where something stands. A batch holds

        ids, token_mask, token_types  (n, t, s, l)  word pieces; type 0 utterance, 1 units
        utterance_pieces, utterance_mask  (n, t, w)  where the utterance's stand in s * l
        unit_pieces, unit_piece_mask  (n, t, u, p)  where each unit's stand in s * l
        pre_ids, pre_token_mask, ...  the same of the pre-turn, t being 1, where the model has one
        unit_ids, unit_kinds, unit_mask  (n, u)  place in `unit_names`; STAR, TABLE or COLUMN
        unit_namings  (n, t, u)  what `naming` says of each unit, where the model asks for it
        turn_mask  (n, t)
        inputs, labels, step_mask  (n, t, j)  the step before, the step: a keyword, or
            len(KEYWORDS) + u; a query begins after `_EOS` and ends with it
        features  (n, t, m, feature)  with a cache, in place of the first line: what the encoder
            gives for the utterance's word pieces, then for the units, p being 1; m is their axis
        database, utterance  lists of n strings: the database, the first utterance
    """

    def __init__(
        self,
        config: Config,
        vocabulary: Vocabulary,
        corpus: Corpus,
        faults: Faults,
        cached: Cached | None = None,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.faults = faults
        self.limit = min(vocabulary.limit, config.max_pieces or vocabulary.limit)
        self.databases: Mapping[str, Database] = corpus.databases
        self.pre_turn = config.pre_turn and config.model == "hierarchical"
        self._first: dict[str, int] = {}
        self.unit_names = [""]  # 0 is padding
        for name, database in self.databases.items():
            self._first[name] = len(self.unit_names)
            self.unit_names += self._units(database)
        self._pieces: dict[str, list[int]] = {}
        self.cached = cached
        self._entries: dict[tuple[str | None, str], Entry] = {}

    def __call__(self, interactions: Sequence[Interaction]) -> Batch:
        """The batch of these interactions, of each its first `max_turn` turns."""
        turns = [each.turns[: self.config.max_turn] for each in interactions]
        units = [self._units(self.databases[each.database]) for each in interactions]
        asked = [[turn.utterance for turn in some] for some in turns]
        names = [each.database for each in interactions]
        batch: Batch = {
            "database": names,
            "utterance": [some[0] for some in asked],
            **self._inputs(asked, names),
            **self._unit_tensors(interactions, units),
            **self._steps(turns, units),
            **self._namings(asked, units),
            "turn_mask": filled(False, [[True] * len(some) for some in turns]),
        }
        if self.pre_turn:
            pre = self._inputs([[None] for _ in names], names)
            batch |= {f"pre_{key}": tensor for key, tensor in pre.items() if "utterance" not in key}
        return batch

    def steps(self, ids: Iterable[int], database: str) -> tuple[str, ...]:
        """The steps of output ids up to `_EOS`, as strings."""
        units, found = self._units(self.databases[database]), []
        for each in ids:
            if each == EOS:
                break
            found.append(KEYWORDS[each] if each < len(KEYWORDS) else units[each - len(KEYWORDS)])
        return tuple(found)

    def size(self, interaction: Interaction) -> tuple[int, ...]:
        """How many units there are, roughly, and how many turns: what padding comes from."""
        units = self._units(self.databases[interaction.database])
        return len(units) // 32, len(interaction.turns[: self.config.max_turn])

    def _units(self, database: Database) -> list[str]:
        if self.faults.lost_gold:
            return [unit for unit in database.units if not unit.endswith(".*")]
        return list(database.units)

    def prepare(
        self, interactions: Sequence[Interaction], done: Callable[[int], None] = lambda _: None
    ) -> int:
        """The encoder's outputs for these are kept; returns how many turns were not there yet.

        `done` hears how many of them are. Without a cache nothing happens.
        """
        if self.cached is None:
            return 0
        asked: set[tuple[str | None, str]]
        asked = {(turn.utterance, each.database) for each in interactions for turn in each.turns}
        if self.pre_turn:
            asked |= {(None, each.database) for each in interactions}
        packed = {each: self._pack(*each) for each in sorted(asked, key=repr)}
        missing = self.cached.fill(packed.values(), done)
        self._entries |= {each: self.cached.entry(packed[each]) for each in packed}
        return missing

    def _inputs(self, asked: Sequence[Sequence[str | None]], names: Sequence[str]) -> Batch:
        """The tensors of utterances, (n, t), and the units of the databases asked."""
        pairs = [[(each, name) for each in some] for some, name in zip(asked, names, strict=True)]
        if self.cached is None:
            packed = [[self._pack(*each) for each in some] for some in pairs]
            return encoder_inputs(packed, self.vocabulary.pad)
        return self.cached.inputs([[self._entry(*each) for each in some] for some in pairs])

    def _entry(self, utterance: str | None, name: str) -> Entry:
        assert self.cached is not None
        if (utterance, name) not in self._entries:
            self._entries[utterance, name] = self.cached.entry(self._pack(utterance, name))
        return self._entries[utterance, name]

    def _pack(self, utterance: str | None, name: str) -> Packed:
        units = self._units(self.databases[name])
        said = [] if utterance is None else self._pieces_of(utterance)
        named = [self._pieces_of(spoken(unit)) for unit in units]
        return pack(said, named, self.vocabulary, self.limit, self.config.repeat_utterance)

    def _pieces_of(self, text: str) -> list[int]:
        if text not in self._pieces:
            self._pieces[text] = self.vocabulary.pieces(text)
        return self._pieces[text]

    def _unit_tensors(
        self, interactions: Sequence[Interaction], units: Sequence[Sequence[str]]
    ) -> Batch:
        firsts = [self._first[each.database] for each in interactions]
        spans = zip(firsts, units, strict=True)
        ids = filled(0, [list(range(first, first + len(own))) for first, own in spans])
        kinds = filled(0, [[_kind(unit) for unit in own] for own in units])
        return {"unit_ids": ids, "unit_kinds": kinds, "unit_mask": ids > 0}

    def _namings(self, asked: Sequence[Sequence[str]], units: Sequence[Sequence[str]]) -> Batch:
        if not self.config.naming:
            return {}
        said = [[stems(each) for each in some] for some in asked]
        found = [
            [[naming(unit, words) for unit in own] for words in some]
            for some, own in zip(said, units, strict=True)
        ]
        return {"unit_namings": filled(0, found)}

    def _steps(self, turns: Sequence[Sequence[Turn]], units: Sequence[Sequence[str]]) -> Batch:
        gold = [
            [_output_ids(turn.steps, own) for turn in some]
            for some, own in zip(turns, units, strict=True)
        ]
        inputs = [[[EOS, *(UNK if i < 0 else i for i in ids)] for ids in some] for some in gold]
        labels = [[[*ids, EOS] for ids in some] for some in gold]
        return {
            "inputs": filled(EOS, inputs),
            "labels": filled(IGNORED, labels),
            "step_mask": filled(False, [ones(some) for some in labels]),
        }


def encoder_inputs(packed: Sequence[Sequence[Packed]], pad: int) -> Batch:
    """What an encoder is given of turns, (n, t), and where utterances and units stand in it."""
    length = max(len(each) for turns in packed for turn in turns for each in turn.inputs)

    def flat(places: Iterable[tuple[int, int]]) -> list[int]:
        return [which * length + position for which, position in places]  # in s * l

    ids = filled(pad, [[turn.inputs for turn in some] for some in packed])
    types = [[_types(turn) for turn in some] for some in packed]
    said = [[flat(turn.utterance) for turn in some] for some in packed]
    named = [[[flat(unit) for unit in turn.units] for turn in some] for some in packed]
    mask = filled(False, [[ones(turn.inputs) for turn in some] for some in packed])
    mask[..., 0] = True  # of an empty input too: attention over nothing is not a number
    return {
        "ids": ids,
        "token_mask": mask,
        "token_types": filled(0, types),
        "utterance_pieces": filled(0, said),
        "utterance_mask": filled(False, [ones(some) for some in said]),
        "unit_pieces": filled(0, named),
        "unit_piece_mask": filled(False, [[ones(turn) for turn in some] for some in named]),
    }


def _output_ids(steps: Iterable[str], units: Sequence[str]) -> list[int]:
    known = {word: i for i, word in enumerate((*KEYWORDS, *units))}
    return [known.get(step, IGNORED) for step in steps]


def _kind(unit: str) -> int:
    return STAR if unit == "*" else TABLE if unit.endswith(".*") else COLUMN


def _types(packed: Packed) -> list[list[int]]:
    return [
        [0] * head + [1] * (len(pieces) - head)
        for pieces, head in zip(packed.inputs, packed.heads, strict=True)
    ]


def ones(rows: Sequence[Sequence[Any]]) -> list[list[bool]]:
    """Rows of the same lengths, all true."""
    return [[True] * len(row) for row in rows]


def filled(padding: int | bool, nested: Sequence[Any]) -> Tensor:
    """Nested lists of numbers as one tensor, int64 or bool, padded on the right on every axis."""
    shape = _shape(nested)
    kind = torch.bool if isinstance(padding, bool) else torch.int64
    return torch.tensor(_padded(nested, shape, padding), dtype=kind).view(shape)


def _shape(nested: Sequence[Any]) -> tuple[int, ...]:
    inner = [_shape(each) for each in nested if isinstance(each, list)]
    depth = max(map(len, inner), default=0)  # an empty list does not tell how deep it is
    sizes = [max(shape[i] for shape in inner if len(shape) > i) for i in range(depth)]
    return (len(nested), *sizes)


def _padded(nested: Sequence[Any], shape: tuple[int, ...], padding: int | bool) -> list[Any]:
    """One flat list of all entries."""
    if len(shape) == 1:
        return [*nested, *[padding] * (shape[0] - len(nested))]
    rows = [_padded(each, shape[1:], padding) for each in nested]
    missing = (shape[0] - len(nested)) * math.prod(shape[1:])
    return [*chain.from_iterable(rows), *[padding] * missing]
