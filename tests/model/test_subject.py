from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.collate import IGNORED
from model.config import Config
from model.faults import Faults
from model.linearise import KEYWORDS
from model.read import Corpus
from model.subject import subject
from probes.attention import attention_maps
from probes.batch import leaves, sample_axes, sample_count, take
from probes.first_step import check_first_step
from probes.loop import Loop
from probes.subject import Subject, load_subject

SMALL: dict[str, Any] = {
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
}
NAMES = ("hierarchical", "seq2seq")


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest) -> Subject:
    """The specimen as the command loads it."""
    return load_subject(f"model.subject:{request.param}", seed=0)


def small(corpus: Corpus, **changes: Any) -> Subject:
    torch.manual_seed(0)
    return subject(Config(**(SMALL | changes)), corpus)


def test_one_step_is_sound(made: Subject) -> None:
    first = check_first_step(made)
    assert first.samples == 20
    assert 4 < first.loss < 8


def test_weights_follow_the_seed() -> None:
    weights = [
        load_subject("model.subject:seq2seq", seed).model.state_dict()["schema.say.weight"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_batches_hold_every_interaction_in_one_shape(made: Subject, corpus: Corpus) -> None:
    batches = list(made.batches)
    sizes = [sample_count(batch, made.layout) for batch in batches]
    assert sizes == [20, 20, 20, 20, 5]
    shapes = [
        {key: leaf.shape[1:] for key, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
        for batch in batches
    ]
    assert all(each == shapes[0] for each in shapes)
    said = [words for batch in batches for words in batch["utterance"]]
    assert said == [each.turns[0].utterance for each in corpus.interactions]


def test_the_layout_names_every_axis_of_every_key(made: Subject) -> None:
    assert made.layout is not None
    batch = next(iter(made.batches))
    tensors = {key: leaf for key, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
    for key, tensor in tensors.items():
        assert len(made.layout.axes[key]) == tensor.ndim, key
    assert set(sample_axes(batch, made.layout)) == set(leaves(batch))
    keys = {mask.key for mask in made.layout.masks} | {
        hidden for mask in made.layout.masks for hidden in mask.hides
    }
    assert keys <= set(tensors)
    assert set(made.layout.names) <= set(tensors)
    assert made.predict is not None
    outputs = made.predict(made.model, take(batch, [0, 1], made.layout))
    assert not isinstance(outputs, Tensor)
    for label in made.layout.labels:
        assert label.key in tensors
        assert outputs[label.output].shape[:-1] == tensors[label.key][:2].shape
    for name, output in outputs.items():
        assert len(made.layout.axes[name]) == output.ndim
    modules = dict(made.model.named_modules())
    assert all(state.site in modules for state in made.layout.states)


def test_names_say_what_stands_there(made: Subject, corpus: Corpus) -> None:
    assert made.layout is not None
    assert made.describe is not None
    batch, names = next(iter(made.batches)), made.layout.names
    interaction = corpus.interactions[3]
    turn = interaction.turns[1]
    assert made.describe(batch, 3) == f"{interaction.database}: {interaction.turns[0].utterance}"
    written = [names["step_ids"][i] for i in batch["step_ids"][3, 1].tolist()]  # type: ignore[index]
    assert written[: len(turn.steps) + 1] == [*turn.steps, "_EOS"]
    units = [names["unit_ids"][i] for i in batch["unit_ids"][3].tolist() if i]  # type: ignore[index]
    assert tuple(units) == corpus.databases[interaction.database].units
    there = batch["utterance_mask"][3, 1]
    pieces = [names["word_ids"](i) for i in batch["word_ids"][3, 1][there].tolist()]  # type: ignore[operator]
    said = "".join(piece.removeprefix("##") for piece in pieces)
    assert said == turn.utterance.lower().replace(" ", "")


def test_naming_keys_are_read_by_no_model(made: Subject) -> None:
    batch = take(next(iter(made.batches)), [0, 1], made.layout)
    without = {key: leaf for key, leaf in batch.items() if key not in ("word_ids", "step_ids")}
    made.model.eval()
    assert torch.equal(made.loss(made.model, batch), made.loss(made.model, without))


def test_parts_and_metrics_carry_their_counts(made: Subject) -> None:
    batch = next(iter(made.batches))
    counts = {name: int(metric(made.model, batch)[1]) for name, metric in made.metrics.items()}
    labels = batch["labels"]
    keywords = (labels != IGNORED) & (labels < len(KEYWORDS))
    queries = int(batch["turn_mask"].sum())
    assert counts["token"] == counts["string"] == queries
    assert counts["key"] == int(keywords.sum())
    assert counts["db"] == int((labels >= len(KEYWORDS)).sum())
    assert set(made.parts) == {"key", "db"}
    made.model.eval()
    whole = made.loss(made.model, batch) * (counts["key"] + counts["db"])
    terms = sum(made.parts[name](made.model, batch) * counts[name] for name in ("key", "db"))
    torch.testing.assert_close(terms, whole)


def test_attention_sites_are_those_of_the_layout(made: Subject) -> None:
    assert made.layout is not None
    batch = take(next(iter(made.batches)), [0], made.layout)
    found = {each.site for each in attention_maps(made.model, lambda: made.model(batch))}
    ours = {site for site in found if not site.startswith("encoder.")}
    assert ours
    assert ours <= set(made.layout.axes)


def test_clipping_reaches_what_the_scope_says(corpus: Corpus) -> None:
    every = small(corpus)
    assert (every.clip_norm, every.train_step) == (1.0, None)
    none = small(corpus, clip="none")
    assert (none.clip_norm, none.train_step) == (None, None)
    some = small(corpus, clip="all_but_bert", clip_norm=1e-3)
    assert some.clip_norm is None
    loop = Loop(some)
    loop.step(next(iter(some.batches)))
    norms = {True: 0.0, False: 0.0}
    for name, parameter in some.model.named_parameters():
        if parameter.grad is not None:
            norms[name.startswith("encoder.")] += float(parameter.grad.square().sum())
    assert norms[False] ** 0.5 == pytest.approx(1e-3, rel=1e-2)
    assert norms[True] ** 0.5 > 2e-3


def test_schedule_and_frozen_encoder(corpus: Corpus) -> None:
    plain = small(corpus)
    assert plain.schedule is None
    assert plain.layout is not None
    assert plain.layout.frozen == ()
    warm = small(corpus, warmup=2, bert_frozen=True)
    assert warm.layout is not None
    assert warm.layout.frozen == ("encoder.",)
    loop = Loop(warm)
    rates = []
    for _ in range(3):
        rates.append(loop.optimizer.param_groups[0]["lr"])
        loop.step(take(next(iter(warm.batches)), [0], warm.layout))
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3])


def test_switches_and_faults_are_offered_one_at_a_time(corpus: Corpus) -> None:
    assert subject(Config(**SMALL), corpus).interventions == {}
    turned = Config(**SMALL, fusion="two_way", loss="key")
    sick = subject(turned, corpus, Faults(softmax_then_log=True))
    assert [*sick.interventions] == ["loss=sum", "fusion=three_way", "without softmax_then_log"]
    other = sick.interventions["without softmax_then_log"](sick)
    assert [*other.interventions] == ["loss=sum", "fusion=three_way"]
