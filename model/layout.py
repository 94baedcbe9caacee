"""What the tensors of the specimen's batches and outputs mean."""

from __future__ import annotations

from model.collate import IGNORED, Collate
from model.linearise import KEYWORDS
from probes import Labels, Layout, Mask, Reads, State

# There is no name for the axis of a split input's parts, nor for the pieces of a unit: `feature`
# is the one that stands for no place in the data.
AXES = {
    "ids": ("sample", "turn", "feature", "token"),
    "token_mask": ("sample", "turn", "feature", "token"),
    "token_types": ("sample", "turn", "feature", "token"),
    "utterance_pieces": ("sample", "turn", "token"),
    "utterance_mask": ("sample", "turn", "token"),
    "word_ids": ("sample", "turn", "token"),
    "unit_pieces": ("sample", "turn", "unit", "feature"),
    "unit_piece_mask": ("sample", "turn", "unit", "feature"),
    "features": ("sample", "turn", "token", "feature"),
    "pre_features": ("sample", "turn", "token", "feature"),
    "pre_ids": ("sample", "turn", "feature", "token"),
    "pre_token_mask": ("sample", "turn", "feature", "token"),
    "pre_token_types": ("sample", "turn", "feature", "token"),
    "pre_unit_pieces": ("sample", "turn", "unit", "feature"),
    "pre_unit_piece_mask": ("sample", "turn", "unit", "feature"),
    "unit_ids": ("sample", "unit"),
    "unit_kinds": ("sample", "unit"),
    "unit_mask": ("sample", "unit"),
    "unit_namings": ("sample", "turn", "unit"),
    "inputs": ("sample", "turn", "time"),
    "labels": ("sample", "turn", "time"),
    "step_ids": ("sample", "turn", "time"),
    "step_mask": ("sample", "turn", "time"),
    "turn_mask": ("sample", "turn"),
    "scores": ("sample", "turn", "time", "feature"),
    "log_probs": ("sample", "turn", "time", "feature"),
    "schema": ("sample", "turn", "unit", "feature"),
    "schema.pool": ("sample", "turn", "unit", "feature"),
}
"""Of batch keys and outputs."""

ATTENTION = {
    "decoder.attend_units": ("sample", "turn", "time", "unit"),
    "decoder.attend_previous": ("sample", "turn", "time", "feature"),
    "decoder.attend_utterance": ("sample", "turn", "time", "token"),
    "attend_units": ("sample", "turn", "token", "unit"),
    "attend_utterance": ("sample", "turn", "time", "token"),
}
"""Of the attention weights of these sites."""

# a turn, a unit or a pre-turn that is padding hides all that is in it
MASKS = (
    Mask("token_mask", hides=("ids", "token_types"), axis="token"),
    Mask("utterance_mask", ("utterance_pieces", "word_ids"), axis="token", may_be_empty=True),
    Mask("unit_piece_mask", hides=("unit_pieces",), axis=3, may_be_empty=True),
    Mask("pre_token_mask", hides=("pre_ids", "pre_token_types"), axis="token"),
    Mask("pre_unit_piece_mask", hides=("pre_unit_pieces",), axis=3, may_be_empty=True),
    Mask("unit_mask", hides=("unit_ids", "unit_kinds"), axis="unit"),
    Mask("step_mask", hides=("inputs", "labels", "step_ids"), axis="time", may_be_empty=True),
    Mask("turn_mask", hides=("inputs", "labels", "step_ids"), axis="turn"),
)

STATES = {
    "hierarchical": (
        State("decoder.session_cell", over="turn"),
        State("decoder.sql_cell", over="time"),
    ),
    "seq2seq": (State("reader", over="time"), State("writer", over="time")),
}


def layout(collate: Collate) -> Layout:
    """What the tensors of a batch mean, and how their entries are called."""
    config = collate.config
    return Layout(
        axes={key: axes for key, axes in (AXES | ATTENTION).items() if _there(key, collate)},
        masks=tuple(mask for mask in MASKS if _there(mask.key, collate)),
        labels=(Labels("labels", output="scores", ignore=IGNORED, mask="step_mask"),),
        reads=reads(collate),
        states=STATES[config.model],
        names={
            **{
                key: collate.vocabulary.name
                for key in ("ids", "pre_ids", "word_ids")
                if _there(key, collate)
            },
            "unit_ids": collate.unit_names,
            "step_ids": [*KEYWORDS, *collate.unit_names],
        },
        frozen=("encoder.",) if config.bert_frozen else (),
    )


def reads(collate: Collate) -> tuple[Reads, ...]:
    """What steps read of steps, units of word pieces, and merged units of units."""
    layers = collate.config.transformer_layers
    last = f"schema.layers.{layers - 1}" if layers else "schema.pool"
    pieces, of = ("unit_pieces", "unit_piece_mask"), "features" if collate.cached else "ids"
    found = (
        Reads("scores", of="inputs", rule="causal"),
        Reads("schema.pool", of=of, rule="span", keys=pieces),
        Reads("schema", of=last, rule="same"),
    )
    return found[:2] if collate.config.joint else found  # then `schema` is no site of its own


CACHED = ("features",)
ENCODED = ("ids", "token_mask", "token_types", "word_ids")
"""What a batch has with a cache, and what without one."""


def _there(key: str, collate: Collate) -> bool:
    absent = ENCODED if collate.cached else CACHED
    if key.removeprefix("pre_") in absent or (key == "unit_namings" and not collate.config.naming):
        return False
    return collate.pre_turn or not key.startswith("pre_")
