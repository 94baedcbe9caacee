"""The bugs of the log, one switch each, all off: what line each changes and what can be seen.

The log names what was found, never the line: where each stands here is inferred. It calls the
merged db index, the misalignment and the RNN state bugs; the softmax before the log, rows of
padding and lost gold it describes; the rest it only suspects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Faults:
    """Which bugs are planted; each field's comment says where, and what it does.

    softmax_then_log: `parser.py`, the log is taken of the softmax, without noise. A probability
        that underflows, or a padded unit's, gives a NaN gradient in the backward of that log.
    unit_index_offset: `schema.py`, unit j of the merged units is read at index j + 1. The model
        memorises all the same; unit j's vector follows the word pieces of unit j + 1.
    misaligned: `schema.py`, so many word pieces are added to the index of every span. Unit j's
        vector reads pieces that are not its own.
    wrong_state: `decoder.py` and `seq2seq.py`, every step of the SQL RNN starts from the initial
        state of its turn. A step's output no longer follows the steps before the last one, but
        for what it attends to.
    padded_rows_averaged: `attention.py`, values at masked positions are not zeroed. A row that is
        masked throughout gives the average of its padding, not zeros.
    pad_position_leak: `encoder.py`, BERT is not told which positions are padding. Every output
        follows what stands there, and how much of it.
    sum_over_padding: `schema.py`, the padding of a span is pooled with it. A unit's vector
        follows the first word piece, and the length of the longest unit of the batch.
    lost_gold: `collate.py`, `table.*` is not among the units. Gold steps that name it can be
        produced by no output, and are counted as such.
    key_drowns_db: `losses.py`, the db loss is averaged over all outputs of a step instead of
        over db steps. Its gradient is smaller by their number.
    mask_without_effect: `attention.py`, the masked scores are computed and thrown away. What a
        mask hides takes its share of the attention.
    first_turn_without_pre_turn: `network.py`, the pre-turn is hidden from the first turn. It has
        nothing before it: all that it attends to before it is masked.
    """

    softmax_then_log: bool = False
    unit_index_offset: bool = False
    misaligned: int = 0
    wrong_state: bool = False
    padded_rows_averaged: bool = False
    pad_position_leak: bool = False
    sum_over_padding: bool = False
    lost_gold: bool = False
    key_drowns_db: bool = False
    mask_without_effect: bool = False
    first_turn_without_pre_turn: bool = False

    @property
    def planted(self) -> tuple[str, ...]:
        """The names of those that are on."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name))
