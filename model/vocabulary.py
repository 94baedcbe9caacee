"""Word pieces: a vocabulary made from a corpus, or that of any transformers encoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from probes.errors import RequestError

if TYPE_CHECKING:
    from model.read import Corpus

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PIECES = 512
"""The word pieces that the small encoder takes at most, as BERT's."""


@dataclass(frozen=True)
class Vocabulary:
    """Word pieces by id.

    tokenizer: of `tokenizers` or `transformers`. pad, unknown, start, stop: ids, `start` begins
    an input and `stop` ends each of its parts. limit: how many word pieces one input may hold.
    """

    tokenizer: Any
    pad: int
    unknown: int
    start: int
    stop: int
    limit: int

    def pieces(self, text: str) -> list[int]:
        """The ids of a text's word pieces, at least one, without special ones."""
        found = self.tokenizer.encode(text, add_special_tokens=False)
        ids = found if isinstance(found, list) else found.ids
        return list(ids) or [self.unknown]

    def name(self, piece: int) -> str:
        """How a word piece is written."""
        if isinstance(self.tokenizer, Tokenizer):
            return str(self.tokenizer.id_to_token(piece))
        return str(self.tokenizer.convert_ids_to_tokens(piece))

    def words(self) -> list[str]:
        """All word pieces in the order of their ids."""
        ids: dict[str, int] = self.tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)


def spoken(unit: str) -> str:
    """A unit as text for the encoder: `pet_owner.last_name` is read `pet owner last name`."""
    return unit.replace(".", " ").replace("_", " ")


def learn(corpus: Corpus, size: int) -> list[str]:
    """At most `size` word pieces learned from a corpus, but all characters; always the same."""
    tokenizer = _word_pieces({})
    texts = [tokenizer.normalizer.normalize_str(text) for text in _texts(corpus)]
    # the trainer meets words in the order of a hash that differs from process to process; ties
    # go by id, so characters inside words are given theirs before it does
    inner = [
        f"##{letter}"
        for letter in sorted({letter for text in texts for letter in text if not letter.isspace()})
    ]
    trainer = WordPieceTrainer(
        vocab_size=max(size, len(inner) + len(SPECIAL)),
        special_tokens=[*SPECIAL, *inner],
        show_progress=False,
        limit_alphabet=10_000,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def of_words(words: Sequence[str]) -> Vocabulary:
    """The vocabulary of these word pieces, the special ones first, as `learn` returns them."""
    if tuple(words[: len(SPECIAL)]) != SPECIAL:
        raise RequestError(
            f"`vocabulary` begins with {list(words[:4])}: expected {list(SPECIAL)};"
            " pass what `learn` returned"
        )
    tokenizer = _word_pieces({word: index for index, word in enumerate(words)})
    return Vocabulary(tokenizer, pad=0, unknown=1, start=2, stop=3, limit=PIECES)


def of_tokenizer(tokenizer: Any, name: str, positions: int) -> Vocabulary:
    """The vocabulary of a transformers tokenizer; `positions` are what its encoder takes."""
    start = _first(tokenizer.cls_token_id, tokenizer.bos_token_id)
    stop = _first(tokenizer.sep_token_id, tokenizer.eos_token_id)
    if start is None or stop is None:
        raise RequestError(
            f"`encoder` {name} has no token that begins or ends an input: expected [CLS] and"
            " [SEP] or the like; name an encoder such as BERT"
        )
    pad = _first(tokenizer.pad_token_id, stop)
    unknown = _first(tokenizer.unk_token_id, stop)
    assert pad is not None
    assert unknown is not None
    limit = min(positions, int(tokenizer.model_max_length))
    return Vocabulary(tokenizer, pad, unknown, start, stop, limit)


def _first(*ids: int | None) -> int | None:
    return next((each for each in ids if each is not None), None)


def _word_pieces(ids: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=1000))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _texts(corpus: Corpus) -> Iterator[str]:
    for interaction in corpus.interactions:
        yield from (turn.utterance for turn in interaction.turns)
    yield from _units(corpus)


def _units(corpus: Corpus) -> Iterable[str]:
    for database in corpus.databases.values():
        yield from (spoken(unit) for unit in database.units)
