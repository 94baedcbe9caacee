"""Every switch of the specimen and of its training, one field each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from probes.errors import RequestError

TINY = 20
"""How many interactions `tiny_dataset=True` keeps: the log's second tiny set."""


@dataclass(frozen=True)
class Config:
    """The specimen as it memorises when nothing is said.

    A field that only one `model` has a use for says so in its comment.
    """

    model: Literal["hierarchical", "seq2seq"] = "hierarchical"
    seed: int = 0

    # data
    shuffle: bool = True  # the training set is put in a new order every epoch
    tiny_dataset: bool | int = False  # so many, drawn by seed; True: TINY; 0 and False: all
    same_database: bool = False  # all interactions of a tiny set ask one database
    max_turn: int | None = None  # turns after the first so many are dropped; 1: a single-turn model
    bucketing: bool = False  # interactions of like size are in a batch
    batch_size: int = 20  # interactions a step; 1, as in the log, has no padding between samples
    validation: int = 0  # interactions held out and measured every epoch; 0: no test loader
    validation_databases: bool = False  # whole databases are held out, until they have so many

    # optimisation
    steps: int = 300
    lr: float = 3e-3  # of everything but BERT
    bert_lr: float = 1e-3
    warmup: int = 0  # steps over which the learning rates rise from zero
    schedule: Literal["constant", "linear"] = "constant"  # linear: falls to zero at `steps`
    clip: Literal["none", "all_but_bert", "all"] = "all"  # whose gradients
    clip_norm: float = 1.0  # the total norm that they are clipped to

    # loss
    loss: Literal["sum", "key", "db", "by_count", "by_size"] = "sum"
    reduction: Literal["mean", "sum"] = "mean"  # over valid steps; by_count divides in any case
    softmax: Literal["log_softmax", "softmax_log"] = "log_softmax"
    noise: float = 1e-8  # added before the log of softmax_log; EditSQL's value

    # encoder
    encoder: str = "small"  # small | minilm | a name or path that transformers knows
    bert_frozen: bool = False
    bert_layers: int = 2  # these four shape `small` alone
    bert_width: int = 64
    bert_heads: int = 4
    vocabulary: int = 2000  # word pieces at most
    bert_dropout: float = 0.1  # of any encoder
    max_pieces: int | None = None  # of one input; None: as many as the encoder takes
    cached: bool = False  # a frozen encoder's outputs are computed once and kept on disk
    repeat_utterance: bool = True  # in every input of a split one; else in the first ones alone

    # schema
    pooling: Literal["mean", "sum"] = "mean"  # of a unit's word pieces
    width: int = 64  # of everything after BERT
    pre_transform: bool = True  # BERT's width is reduced before signals and layers, else after
    transformer_layers: int = 0  # over the units
    transformer_heads: int = 4
    joint: bool = False  # these layers run over the utterance's word pieces and the units together
    naming: bool = False  # units whose words the utterance says carry a signal
    used: bool = False  # (hierarchical) and so do units that the query before has
    merge: Literal["concat", "add"] = "concat"  # of units as seen under this turn and earlier ones
    merge_turns: int = 2  # how many turns are merged, this one included
    utterance_mask: bool = True  # zeroes slots of turns that are not there; they are zero already

    # decoder
    pre_turn: bool = True  # (hierarchical) what holds only the db stands before every turn
    state_pooling: Literal["mean", "sum"] = "mean"  # of the utterance, for the initial state
    state_mask: bool = True  # padding of the utterance is left out of the initial state
    query_reader: bool = False  # (hierarchical) earlier queries are read by an RNN either way
    copying: bool = False  # (hierarchical) steps of earlier queries can be copied
    second_cell: bool = False  # (hierarchical) an RNN runs over what the fusion gives, too
    fusion: Literal["three_way", "two_way"] = "three_way"  # (hierarchical) two: no sum of units
    attend_utterance: bool = True  # (hierarchical) the decoder reads the utterance at every step
    attention_mask: bool = True  # padding is masked in every attention of the decoder
    hard_attention: bool = True  # masked values are zeroed too, so an all-masked row gives zeros
    join_input: bool = True  # the decoder's output is joined with its input through tanh
    unit_score: Literal["dot", "linear", "bilinear"] = "linear"  # of an output and a unit
    keyword_init: Literal["free", "bert", "concat"] = "free"  # of the keyword embeddings
    dropout: float = 0.1  # of everything after BERT
    read_dropout: float = 0.0  # of what BERT gives, its width reduced

    # the log's base model
    attend_units: bool = True  # (seq2seq) the utterance attends to the units
    residual: bool = True  # (seq2seq) and is added to what it read

    def __post_init__(self) -> None:
        hints = get_type_hints(Config)
        for each in fields(self):
            _check_kind(each.name, getattr(self, each.name), hints[each.name])
        for name, (least, most) in RANGES.items():
            _check_range(name, getattr(self, name), least, most)
        _check_heads(self)
        _check_cached(self)

    @property
    def tiny(self) -> int | None:
        """How many interactions training keeps; None where it keeps them all."""
        return TINY if self.tiny_dataset is True else self.tiny_dataset or None

    def as_json(self) -> dict[str, Any]:
        """The fields by name, as JSON takes them."""
        return asdict(self)


# fmt: off
RANGES: Mapping[str, tuple[float, float]] = {
    "tiny_dataset": (0, 1e9), "max_turn": (1, 1e9), "batch_size": (1, 1e9), "validation": (0, 1e9),
    "steps": (1, 1e9), "lr": (0, 1e9), "bert_lr": (0, 1e9), "warmup": (0, 1e9),
    "clip_norm": (0, 1e9), "noise": (0, 1), "bert_layers": (1, 1000), "bert_width": (1, 1e5),
    "bert_heads": (1, 1e5), "vocabulary": (1, 1e7), "bert_dropout": (0, 1), "max_pieces": (16, 1e9),
    "width": (1, 1e5), "transformer_layers": (0, 1000), "transformer_heads": (1, 1e5),
    "merge_turns": (1, 1000), "dropout": (0, 1), "read_dropout": (0, 1),
}
# fmt: on
"""The least and the most that a number may be, both included."""


def from_json(values: Mapping[str, Any]) -> Config:
    """The `Config` of these fields; raises RequestError where one is unknown or of another kind."""
    known = {each.name for each in fields(Config)}
    for name in values:
        if name not in known:
            raise RequestError(
                f"`{name}` is no field of the configuration: expected one of"
                f" {', '.join(sorted(known))}; correct the name"
            )
    return Config(**values)


def _check_kind(name: str, value: object, hint: Any) -> None:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is(value, kind) for kind in kinds):
        raise RequestError(
            f"`{name}` is {value!r}: expected {' or '.join(_words(kind) for kind in kinds)};"
            " give such a value"
        )


def _is(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind  # a bool is no int here


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    return "none" if kind is NoneType else str(kind.__name__)


def _check_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:  # a NaN is in no range
        raise RequestError(
            f"`{name}` is {value}: expected at least {least:g} and at most {most:g};"
            " give such a number"
        )


def _check_heads(config: Config) -> None:
    inner = config.width if config.pre_transform else config.bert_width
    small = config.encoder == "small"  # another encoder's width is not known before it is loaded
    for name, width, used in (
        ("bert_heads", config.bert_width, small),
        ("transformer_heads", inner, config.transformer_layers and (small or config.pre_transform)),
    ):
        heads = getattr(config, name)
        if used and width % heads:
            raise RequestError(
                f"`{name}` is {heads}, which does not divide the width {width}: give a number"
                " that does"
            )


def _check_cached(config: Config) -> None:
    if config.cached and not (config.bert_frozen and config.pooling == "mean"):
        raise RequestError(
            f"`cached` is true, `bert_frozen` is {str(config.bert_frozen).lower()} and `pooling` is"
            f" {config.pooling}: a cache holds what a frozen encoder gives, the mean over each"
            " unit's word pieces; freeze it and take the mean, or do without the cache"
        )
