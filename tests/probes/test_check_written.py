"""Ids that are written step by step are those that the loss would have as the likeliest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Write = Callable[["Translator", Tensor], Tensor]
STEPS = 6
BEGIN = 1


class Translator(nn.Module):
    """Reads a sentence and writes another, whose places it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(20, 16), nn.Embedding(24, 16)
        self.places = nn.Embedding(12, 16)
        self.encoder = nn.GRU(16, 16, batch_first=True)
        self.decoder = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 24)

    def encode(self, words: Tensor) -> Tensor:
        state: Tensor = self.encoder(self.source(words))[1]
        return state

    def decode(self, ids: Tensor, state: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        steps = torch.arange(start, start + ids.shape[1])
        read, state = self.decoder(3 * self.target(ids) + 3 * self.places(steps), state)
        return 6 * self.head(read), state


def fed(labels: Tensor) -> Tensor:
    return torch.cat([torch.full_like(labels[:, :1], BEGIN), labels[:, :-1]], 1)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Translator)
    scores, _ = model.decode(fed(batch["labels"]), model.encode(batch["words"]))
    return F.cross_entropy(scores.flatten(0, 1), batch["labels"].flatten(), ignore_index=0)


def greedy(
    model: Translator,
    words: Tensor,
    place: Callable[[int], int] = lambda i: i,
    begin: int = BEGIN,
    keeps: bool = True,
    shown: Callable[[Tensor], Tensor] = lambda scores: scores,
) -> Tensor:
    state = first = model.encode(words)
    written = [torch.full_like(words[:, :1], begin)]
    for i in range(STEPS):
        scores, state = model.decode(written[-1], state if keeps else first, place(i))
        written.append(shown(scores[:, -1]).argmax(-1, keepdim=True))
    return torch.cat(written[1:], 1)


def whole_again(model: Translator, words: Tensor) -> Tensor:
    """All that is written is read anew at every step; what begins it stays."""
    state, written = model.encode(words), torch.full_like(words[:, :1], BEGIN)
    for _ in range(STEPS):
        scores = model.decode(written, state)[0]
        written = torch.cat([written, scores.argmax(-1)[:, -1:]], 1)
    return written


def beam(model: Translator, words: Tensor, width: int = 3) -> Tensor:
    found = []
    for word in words.split(1):
        held = [(0.0, torch.full_like(word[:, :1], BEGIN))]
        for _ in range(STEPS):
            grown = []
            for total, ids in held:
                logs = model.decode(ids, model.encode(word))[0][0, -1].log_softmax(-1)
                for score, k in zip(*logs.topk(width), strict=True):
                    grown.append((total + float(score), torch.cat([ids, k.view(1, 1)], 1)))
            held = sorted(grown, key=lambda each: -each[0])[:width]
        found.append(held[0][1][:, 1:])
    return torch.cat(found)


def drawn(model: Translator, words: Tensor) -> Tensor:
    """By the Gumbel trick, always the same draw."""
    noise = torch.rand(24, generator=torch.Generator().manual_seed(0))
    return greedy(model, words, shown=lambda scores: scores - (-noise.log()).log() * 9)


def grammar(model: Translator, words: Tensor) -> Tensor:
    """Two thirds of the ids may never be written."""
    allowed = torch.arange(24) % 3 == 2
    return greedy(model, words, shown=lambda s: s.softmax(-1) * allowed)


def guided(model: Translator, words: Tensor) -> Tensor:
    """Away from what would be said of no sentence at all."""
    state, none = model.encode(words), torch.zeros(1, len(words), 16)
    last, written = torch.full_like(words[:, :1], BEGIN), []
    for i in range(STEPS):
        scores, state = model.decode(last, state, i)
        other, none = model.decode(last, none, i)
        last = (3 * scores - 2 * other)[:, -1].argmax(-1, keepdim=True)
        written.append(last)
    return torch.cat(written, 1)


def cooled(model: Translator, words: Tensor) -> Tensor:
    return greedy(model, words, shown=lambda scores: scores / 0.7)


def ended(model: Translator, words: Tensor) -> Tensor:
    """After an id that ends it, nothing but padding."""
    written = greedy(model, words)
    over = (written % 4 == 0).cumsum(1) > 0
    return written.masked_fill(over.roll(1, 1) & (torch.arange(STEPS) > 0), 0)


def after_unknown(model: Translator, words: Tensor) -> Tensor:
    """What it cannot say it does not read again, either."""
    state, last, written = model.encode(words), torch.full_like(words[:, :1], BEGIN), []
    for i in range(STEPS):
        scores, after = model.decode(last, state, i)
        state = torch.where((last == 3)[None], state, after)
        last = scores[:, -1].argmax(-1, keepdim=True)
        written.append(last)
    return torch.cat(written, 1)


HEALTHY: list[Write] = [
    greedy,
    whole_again,
    beam,
    drawn,
    grammar,
    guided,
    cooled,
    ended,
    after_unknown,
]


def subject(write: Write, train: Callable[[nn.Module, Batch], Tensor] = loss) -> Subject:
    seed_everything(0)
    words, labels = torch.randint(2, 20, (7, 5)), torch.randint(4, 24, (7, STEPS))
    labels[2:4, 4:] = 0

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model, Translator)
        return write(model, batch["words"])

    return Subject(
        Translator(),
        [{"words": words, "labels": labels}],
        train,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        predict=predict,
    )


@pytest.mark.parametrize("write", HEALTHY, ids=lambda write: write.__name__)
def test_what_is_written_as_the_loss_has_it_or_otherwise_on_purpose_is_not_told(
    write: Write,
) -> None:
    judged = check(subject(write), chosen(only=["MSK009"]))
    assert judged.findings == ()
    assert judged.not_judged == ()


@pytest.mark.parametrize(
    ("write", "site", "place"),
    [
        (lambda m, w: greedy(m, w, place=lambda i: 0), "places", 1),
        (lambda m, w: greedy(m, w, keeps=False), "decoder", 1),
        (lambda m, w: greedy(m, w, begin=0), "target", 0),
        (lambda m, w: greedy(m, w.flip(1)), "source", 0),
    ],
    ids=["place", "state", "begin", "source"],
)
def test_a_decoder_that_sees_something_else_than_the_loss_is_told_with_its_place(
    write: Write, site: str, place: int
) -> None:
    (found,) = check(subject(write), chosen(only=["MSK009"])).findings
    assert found.verdict is Verdict.WARN
    assert (found.site, found.where["token"]) == (site, place)


def told_the_end(model: nn.Module, batch: Batch) -> Tensor:
    """In training it begins with what is to be said, as a posterior; in decoding without."""
    assert isinstance(model, Translator)
    state = model.encode(batch["words"]) + model.target(batch["labels"]).mean(1)[None]
    scores, _ = model.decode(fed(batch["labels"]), state)
    return F.cross_entropy(scores.flatten(0, 1), batch["labels"].flatten(), ignore_index=0)


def test_a_loss_that_reads_what_is_to_be_said_is_another_on_purpose() -> None:
    assert check(subject(greedy, told_the_end), chosen(only=["MSK009"])).findings == ()


def step_by_step(model: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(model, Translator)
    state, total = model.encode(batch["words"]), torch.zeros(())
    for i, ids in enumerate(fed(batch["labels"]).split(1, 1)):
        scores, state = model.decode(ids, state, i)
        total = total + F.cross_entropy(scores[:, 0], batch["labels"][:, i], ignore_index=0)
    return total / STEPS


def test_a_loss_that_is_taken_place_by_place_is_held_against_it_as_well() -> None:
    rule = chosen(only=["MSK009"])
    assert check(subject(greedy, step_by_step), rule).findings == ()
    wrong = subject(lambda m, w: greedy(m, w, keeps=False), step_by_step)
    (found,) = check(wrong, rule).findings
    assert found.site == "decoder"
