"""What to do about padding is said by the module, or the line, that lets it in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding


def masked_mean(h: Tensor, mask: Tensor) -> Tensor:
    keep = mask[..., None].float()
    return (h * keep).sum(1) / keep.sum(1)


class Words(nn.Module):
    """Ids to hidden vectors; a head over what `pooled` makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(40, 16), nn.Linear(16, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.head(self.pooled(self.words(ids), mask))
        return out

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(h, mask)


class BothWays(Words):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(16, 8, batch_first=True, bidirectional=True)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.rnn(h)[0], mask)


class Encoded(Words):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.encoder(h), mask)


class Attending(Words):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.attend(h, h, h)[0], mask)


class Convolved(Words):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.conv(h.mT + 1).mT, mask)


class Normed(Words):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(16)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.norm(h.mT).mT, mask)


class Scored(Words):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(16, 1)

    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        weights = (self.score(h).squeeze(-1) * mask).softmax(-1)
        out: Tensor = (weights[..., None] * h).sum(1)
        return out


class Mean(Words):
    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return h.mean(1)


class Largest(Words):
    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return h.amax(1)


class Last(Words):
    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return h.tanh()[:, -1]


class ByHand(Words):
    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(nn.functional.scaled_dot_product_attention(h, h, h), mask)


def found_of(model: type[Words], code: str) -> list[Finding]:
    torch.manual_seed(0)
    keep = (torch.arange(9) < torch.randint(4, 10, (32, 1))).long()
    ids = torch.randint(1, 40, (32, 9)) * keep
    subject = Subject(
        model(),
        [{"ids": ids, "mask": keep, "labels": ids[:, 0] % 5}],
        lambda model, b: nn.functional.cross_entropy(model(b["ids"], b["mask"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    return list(check(subject, chosen([code])).findings)


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        (BothWays, "Pack what `rnn` reads, `pack_padded_sequence("),
        (Encoded, "Give `encoder` `src_key_padding_mask`"),
        (Attending, "Give `attend` `key_padding_mask`"),
        (Convolved, "Set what `mask` hides to 0 before `conv`"),
        (Normed, "Keep padding out of the statistics of `norm`"),
        (Scored, "Fill the scores that `mask` hides with -inf"),
        (Mean, "Take the mean over what `mask` lets see alone"),
        (Largest, "Keep what `mask` hides out of the maximum"),
        (Last, "Read it at each row's own last position"),
        (ByHand, "Fill the scores that `mask` hides with -inf"),
    ],
)
def test_the_fix_is_that_of_what_lets_padding_in(model: type[Words], fix: str) -> None:
    [found] = found_of(model, "MSK001")
    assert found.fix.startswith(fix)
    lines = [number for _, _, number in model.pooled.__code__.co_lines() if number]
    file, _, number = (found.source or "").rpartition(":")
    assert file.endswith("test_remedy.py")
    assert min(lines) < int(number) <= max(lines)


class Divided(Words):
    def pooled(self, h: Tensor, mask: Tensor) -> Tensor:
        return (h * mask[..., None]).sum(1) / h.shape[1]


def test_more_padding_is_told_by_its_line_and_in_plain_words() -> None:
    [found] = found_of(Divided, "MSK004")
    assert found.message.startswith(
        "3 more positions of padding in `ids` and `mask` change `output`"
    )
    assert found.message.endswith(
        "the change begins in the code of `model`, before it calls `head`."
    )
    assert found.fix.startswith("Divide by the number of positions that `mask` lets see")
    line = Divided.pooled.__code__.co_firstlineno + 1
    assert (found.source or "").endswith(f"test_remedy.py:{line}")


def test_nothing_is_said_of_a_masked_mean() -> None:
    assert found_of(Words, "MSK001") + found_of(Words, "MSK004") == []
