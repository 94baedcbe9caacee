"""Causes within models and libraries, those that no patch confirms, and code that is healthy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Finding
from probes.record import Recorder

CauseOf = Callable[..., Finding | None]
INF = float("inf")

SCORES = torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.3, -0.4]])
ROW = torch.tensor([[True, True, True], [False, True, False]])  # masks a row whole
FAR = torch.tensor([[200.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
ZERO = torch.tensor([[0.0, 0.0], [1.0, 3.0]])

HEALTHY: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "log_softmax": (lambda x: -x.log_softmax(-1)[:, 1].mean(), FAR),
    "logsigmoid": (lambda x: -F.logsigmoid(-x).mean(), FAR),
    "clamped log": (lambda x: x.clamp(min=1e-6).log().sum(), ZERO),
    "kl_div": (lambda x: F.kl_div(x.log_softmax(-1), torch.eye(3)[:2], reduction="sum"), FAR),
    "Categorical": (lambda x: Categorical(probs=x.softmax(-1)).entropy().sum(), FAR),
    "masked entropy": (
        lambda x: Categorical(logits=x.masked_fill(ROW[1], -INF)).entropy().sum(),
        SCORES,
    ),
    "mask": (lambda x: x.masked_fill(ROW[1], -INF).softmax(-1).pow(2).sum(), SCORES),
    "norm at 0": (lambda x: x.norm(dim=-1).sum(), ZERO),
    "cdist at 0": (lambda x: torch.cdist(x, x).sum(), ZERO),
    "normalize": (lambda x: F.normalize(x, dim=-1).sum(), ZERO),
    "cosine": (lambda x: F.cosine_similarity(x[0], x[1], dim=0), ZERO),
    "double where": (
        lambda x: torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0).sum(),
        ZERO,
    ),
    "biased": (lambda x: x[:1].std(0, unbiased=False).sum(), ZERO),
    "constant std": (lambda x: (x[:, :1] * torch.ones(3)).std(-1).sum(), ZERO),
    "masked sdpa": (
        lambda x: F.scaled_dot_product_attention(
            x, x, x, attn_mask=torch.tensor([[False, False], [True, True]])
        ).sum(),
        ZERO,
    ),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(x @ x.T).pow(2).sum(), torch.eye(3)),
    "zero_infinity": (
        lambda x: F.ctc_loss(
            x[:, None].log_softmax(-1), torch.tensor([[1, 1, 1]]), (2,), (3,), zero_infinity=True
        ),
        SCORES,
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_healthy_code(name: str, cause_of: CauseOf) -> None:
    assert cause_of(*HEALTHY[name]) is None


class Attention(nn.Module):
    """Self-attention of which a sample has no key."""

    def __init__(self, weights: bool, size: float = 1.0, mask: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.x, self.mask, self.weights = torch.randn(2, 3, 4) * size, mask, weights

    def forward(self) -> Tensor:
        how = {"key_padding_mask": self.mask, "need_weights": self.weights}
        return self.attention(self.x, self.x, self.x, **how)[0].sum()


def test_a_fully_masked_row_in_torchs_own_attention(cause_of: CauseOf) -> None:
    found = cause_of(Attention(True, mask=ROW))
    assert found is not None
    assert (found.code, found.op, found.confirmed) == ("NAN003", "aten._softmax", True)
    assert found.site == "attention"


def test_without_weights_torchs_own_attention_gives_zeros(cause_of: CauseOf) -> None:
    assert cause_of(Attention(False, mask=ROW)) is None


def test_a_birth_in_fused_attention_is_named_without_the_kernel(cause_of: CauseOf) -> None:
    found = cause_of(Attention(False, size=1e30))
    assert found is not None
    assert (found.code, found.op) == ("NAN006", "aten.bmm")
    assert any(each.what == "named with" for each in found.evidence)


UNCONFIRMED: dict[str, tuple[str, str, Callable[..., Tensor], Tensor]] = {
    "square": ("NAN006", "aten.pow", lambda x: x.square().sum(), ZERO * 1e20),
    "product": ("NAN006", "aten.mul", lambda x: (x * x * x).sum(), ZERO * 1e20),
    "even power": ("NAN006", "aten.pow", lambda x: x.pow(2).sum(), ZERO * -1e20),
    "way back": (
        "NAN006",
        "aten.mul",
        lambda x: (x * 1e30).mean() * 1e-30 * 1e38 * 1e-38 * 1e9,
        ZERO,
    ),
    "data": ("NAN016", "aten.mul", lambda x: (x * torch.tensor([float("nan"), 1.0])).sum(), ZERO),
    "repeats": (
        "NAN025",
        "aten._ctc_loss",
        lambda x: F.ctc_loss(x[:, None].log_softmax(-1), torch.tensor([[1, 1]]), (2,), (2,)),
        SCORES,
    ),
    "too long": (
        "NAN025",
        "aten._ctc_loss",
        lambda x: F.ctc_loss(x[:, None].log_softmax(-1), torch.tensor([1, 2, 1]), (2,), (3,)),
        SCORES,
    ),
    "remainder": (
        "NAN000",
        "aten.remainder",
        lambda x: torch.remainder(x, 0 * x[0, 0]).sum(),
        ZERO,
    ),
}


@pytest.mark.parametrize("name", UNCONFIRMED)
def test_a_cause_without_a_patch_is_neither_confirmed_nor_denied(
    name: str, cause_of: CauseOf
) -> None:
    code, op, function, given = UNCONFIRMED[name]
    scale = 1e30 if name == "way back" else 1.0
    found = cause_of(function, given, scale=scale)
    assert found is not None
    assert (found.code, found.op, found.confirmed) == (code, op, None)


def test_ctc_counts_the_frames_that_repeats_need(cause_of: CauseOf) -> None:
    found = cause_of(*UNCONFIRMED["repeats"][2:])
    assert found is not None
    assert "sample 0 needs 3 frames and has 2" in found.message


class Size(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x / x.abs()


def hooked(x: Tensor) -> Tensor:
    doubled = x * 2
    doubled.register_hook(lambda grad: grad / (grad - 1))
    return doubled.sum()


@pytest.mark.parametrize("function", [lambda x: Size.apply(x).sum(), hooked])
def test_a_users_own_backward(function: Callable[..., Tensor], cause_of: CauseOf) -> None:
    found = cause_of(function, ZERO)
    assert found is not None
    assert (found.code, found.op, found.phase) == ("NAN022", "aten.div", "backward")


class Reader(nn.Module):
    def __init__(self, by_hand: bool, radius: float = 9.0, time: int = 50) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.RNN(4, 4, nonlinearity="relu", batch_first=True)
        self.x, self.by_hand = torch.randn(2, time, 4), by_hand
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(radius * torch.eye(4))

    def forward(self) -> Tensor:
        if not self.by_hand:
            return self.rnn(self.x)[0][:, -1].mean()
        state = torch.zeros(2, 4)
        for x in self.x.unbind(1):
            state = (state @ self.rnn.weight_hh_l0.T + x).relu()
        return state.mean()


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_recurrence_that_explodes(by_hand: bool, cause_of: CauseOf) -> None:
    found = cause_of(Reader(by_hand))
    assert found is not None
    assert (found.code, found.phase) == ("NAN018", "forward")
    factor = float(found.message.partition("a factor of ")[2].split()[0])
    assert factor == pytest.approx(9.0, rel=0.02)


def test_a_recurrence_that_does_not_is_healthy(cause_of: CauseOf) -> None:
    assert cause_of(Reader(by_hand=False, radius=0.9)) is None


def test_adam_in_half_precision(cause_of: CauseOf) -> None:
    found = cause_of(
        lambda x: (x * 1e-4).sum().float(),
        torch.ones(3).half(),
        optimizer=torch.optim.Adam,
        steps=2,
    )
    assert found is not None
    assert (found.code, found.site, found.phase) == ("NAN020", "<optimizer>", "update")


def test_a_poisoned_parameter_that_the_step_reads(cause_of: CauseOf) -> None:
    found = cause_of(lambda x: (x * 2).sum(), torch.tensor([float("nan"), 1.0]))
    assert found is not None
    assert (found.code, found.site, found.confirmed) == ("NAN017", "given.0", True)


def test_bfloat16_autocast_is_healthy(cause_of: CauseOf) -> None:
    def autocast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy((x @ x.T).float(), torch.tensor([0, 1]))

    assert cause_of(autocast, SCORES) is None


class Recomputed(nn.Module):
    """Checkpoints its only layer: the backward pass runs the forward one again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)

    def root(self, x: Tensor) -> Tensor:
        return self.linear(x).pow(2).sum(-1).sqrt()

    def forward(self) -> Tensor:
        return checkpoint(self.root, torch.zeros(2, 4), use_reentrant=False).sum()


def test_a_cause_within_a_checkpoint(cause_of: CauseOf) -> None:
    found = cause_of(Recomputed())
    assert found is not None
    assert (found.code, found.op, found.confirmed) == ("NAN002", "aten.div", True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        self.x, self.y = torch.randn(8, 6), torch.randint(0, 3, (8,))


@pytest.mark.parametrize("scaled", [True, False])
def test_a_scaler_is_healthy_where_it_takes_the_step(scaled: bool, tmp_path: Path) -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(net.body(net.x), net.y)
        scaler.scale(loss).backward()
        if scaled:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        return loss

    out = Recorder(tmp_path / "run")
    with suppress(PoisonedStep), NanWatch(net, optimizer, out=out) as watch:
        for _ in range(3):
            watch.step(step)
    out.close(watch.judgement)
    codes = [(found.code, found.confirmed) for found in watch.findings]
    assert codes == ([] if scaled else [("NAN015", True)])


@pytest.mark.parametrize("returned", ["nothing", "a number"])
def test_a_step_that_returns_no_loss_is_patched_as_any(returned: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = 1e3 * torch.randn(6, 4)

    def step(watch: NanWatch) -> float | None:
        optimizer.zero_grad()
        loss = -net(x).log()[:, 0].mean()
        watch.backward(loss)
        optimizer.step()
        return None if returned == "nothing" else float(loss)

    with pytest.raises(PoisonedStep) as stopped, NanWatch(net, optimizer) as watch:
        watch.step(lambda: step(watch))
    assert (stopped.value.finding.code, stopped.value.finding.confirmed) == ("NAN001", True)


def test_a_cast_that_hands_a_zero_on_has_not_made_it(cause_of: CauseOf) -> None:
    count = torch.tensor([0.0, 2.0])

    def function(x: Tensor) -> Tensor:
        return (x.bfloat16() / count.bfloat16()[:, None]).float().sum()

    found = cause_of(function, ZERO)
    assert found is not None
    assert (found.code, "_to_copy" in found.message) == ("NAN004", False)
