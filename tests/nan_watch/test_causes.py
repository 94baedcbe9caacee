"""Each cause over many ways to write it: code, operator, and whether its patch cures the step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from probes.finding import Finding

CauseOf = Callable[..., Finding | None]
INF = float("inf")

Y = torch.tensor([1, 2])
FAR = torch.tensor([[200.0, 0.0, 0.0], [0.0, 1.0, 2.0]])  # scores far apart
SCORES = torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.3, -0.4]])
ENTRY = torch.tensor([True, False, False])
TWO = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
ZERO = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
ZERO_ONE = torch.tensor([0.0, 2.0])
ROWS = torch.tensor([False, True])
ONE = torch.tensor([1.0, 0.5])
NEGATIVE = torch.tensor([-1.0, 0.5])


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def contrast(distance: Tensor, same: Tensor) -> Tensor:
    """Pulls together what is the same, and pushes the rest apart up to a margin."""
    return same * distance**2 + (1 - same) * torch.relu(1 - distance) ** 2


SICK: dict[str, tuple[str, str, Callable[..., Tensor], Tensor]] = {
    # NAN001: the log of zero
    "softmax": (
        "NAN001",
        "aten.log",
        lambda x: -x.softmax(-1).log().gather(1, Y[:, None]).mean(),
        FAR,
    ),
    "functions": (
        "NAN001",
        "aten.log",
        lambda x: -torch.log(F.softmax(x, 1))[torch.arange(2), Y].mean(),
        FAR,
    ),
    "gathered first": (
        "NAN001",
        "aten.log",
        lambda x: -x.softmax(-1).gather(1, Y[:, None]).log().mean(),
        FAR,
    ),
    "in place": (
        "NAN001",
        "aten.log_",
        lambda x: -x.softmax(-1).clone().log_().gather(1, Y[:, None]).mean(),
        FAR,
    ),
    "log2": (
        "NAN001",
        "aten.log2",
        lambda x: -x.softmax(-1).log2().gather(1, Y[:, None]).mean(),
        FAR,
    ),
    "nll": ("NAN001", "aten.log", lambda x: F.nll_loss(F.softmax(x, -1).log(), Y), FAR),
    "one-hot": (
        "NAN001",
        "aten.log",
        lambda x: -(x.softmax(-1).log() * F.one_hot(Y, 3)).sum(),
        FAR,
    ),
    "entropy": ("NAN001", "aten.log", lambda x: -(x.softmax(-1) * x.softmax(-1).log()).sum(), FAR),
    "sigmoid": (
        "NAN001",
        "aten.log",
        lambda x: -x.sigmoid().log().mean(),
        torch.tensor([-200.0, 1.0]),
    ),
    "rest of a sigmoid": (
        "NAN001",
        "aten.log",
        lambda x: -torch.log(1 - x.sigmoid()).mean(),
        torch.tensor([20.0, 1.0]),
    ),
    "log1p of -p": (
        "NAN001",
        "aten.log1p",
        lambda x: -torch.log1p(-x.sigmoid()).mean(),
        torch.tensor([50.0, 1.0]),
    ),
    "log1p of -1": ("NAN001", "aten.log1p", lambda x: x.log1p().sum(), torch.tensor([-1.0, 0.5])),
    "relu": ("NAN001", "aten.log", lambda x: x.relu().log().sum(), NEGATIVE),
    "xlogy": ("NAN001", "aten.div", lambda x: torch.xlogy(x, x).sum(), ZERO_ONE),
    "entr": ("NAN001", "aten.log", lambda x: torch.special.entr(x).sum(), ZERO_ONE),
    "masked softmax": (
        "NAN001",
        "aten.log",
        lambda x: -x.masked_fill(ENTRY, -INF).softmax(-1).log().mean(),
        SCORES,
    ),
    "half softmax": (
        "NAN001",
        "aten.log",
        lambda x: -x.half().softmax(-1).log().gather(1, Y[:, None]).float().mean(),
        FAR,
    ),
    "almost zero": (
        "NAN001",
        "aten.div",
        lambda x: -x.softmax(-1).log().sum(),
        torch.tensor([90.0, 0.0]),
    ),
    # NAN002: a root at zero
    "sqrt": ("NAN002", "aten.div", lambda x: (x[0] - x[1]).pow(2).sum(-1).sqrt().sum(), TWO),
    "pow a half": (
        "NAN002",
        "aten.pow",
        lambda x: (x[0] - x[1]).pow(2).sum(-1).pow(0.5).sum(),
        TWO,
    ),
    "batched roots": (
        "NAN002",
        "aten.div",
        lambda x: (x[:, None] - x[None]).pow(2).sum(-1).sqrt().sum(),
        TWO,
    ),
    "rsqrt": ("NAN002", "aten.rsqrt", lambda x: x.relu().rsqrt().sum(), NEGATIVE),
    "weighed away": (
        "NAN002",
        "aten.div",
        lambda x: (x.sqrt() * torch.tensor([0.0, 1.0])).sum(),
        ZERO_ONE,
    ),
    "weighed away where relu lets it through": (
        "NAN002",
        "aten.div",
        lambda x: contrast(x.sqrt(), torch.tensor([1.0, 0.0])).sum(),
        ZERO_ONE,
    ),
    "weighed away where clamp lets it through": (
        "NAN002",
        "aten.div",
        lambda x: (x.sqrt().clamp(max=9) * torch.tensor([0.0, 1.0])).sum(),
        ZERO_ONE,
    ),
    # NAN005: a hidden branch
    "a relu that is shut": (
        "NAN005",
        "aten.div",
        lambda x: contrast(2 - x.sqrt(), torch.tensor([0.0, 0.0])).sum(),
        ZERO_ONE,
    ),
    "where of rows": (
        "NAN005",
        "aten.div",
        lambda x: torch.where(ROWS[:, None], x / x.norm(dim=-1)[:, None], x).sum(),
        ZERO,
    ),
    "where of a root": (
        "NAN005",
        "aten.div",
        lambda x: torch.where(x > 0, x.sqrt(), 0.0).sum(),
        ZERO_ONE,
    ),
    "where of a division": (
        "NAN005",
        "aten.mul",
        lambda x: torch.where(x != 0, 1 / x, 0.0).sum(),
        ZERO_ONE,
    ),
    "sinc": ("NAN005", "aten.div", lambda x: torch.where(x == 0, 1.0, x.sin() / x).sum(), ZERO_ONE),
    "where of a norm": (
        "NAN005",
        "aten.div",
        lambda x: torch.where(
            x.norm(dim=-1, keepdim=True) > 0, x / x.norm(dim=-1, keepdim=True), x
        ).sum(),
        ZERO,
    ),
    "clamp after": (
        "NAN005",
        "aten.div",
        lambda x: x.pow(2).sum(-1).sqrt().clamp(min=1e-6).sum(),
        ZERO,
    ),
    "maximum after": (
        "NAN005",
        "aten.div",
        lambda x: torch.maximum(x.sqrt(), torch.tensor(1e-3)).sum(),
        ZERO_ONE,
    ),
    "clamped log": ("NAN005", "aten.div", lambda x: x.log().clamp(min=-100).sum(), ZERO_ONE),
    "where of exp": (
        "NAN005",
        "aten.mul",
        lambda x: torch.where(x > 0, x, x.exp() - 1).sum(),
        torch.tensor([100.0, 1.0]),
    ),
    # NAN006: an overflow
    "lgamma": (
        "NAN006",
        "aten.lgamma",
        lambda x: (x.lgamma() - (x + 1e4).lgamma()).sum(),
        ZERO,
    ),
    "digamma": ("NAN006", "aten.digamma", lambda x: x.digamma().sum(), ZERO),
    "exp": ("NAN006", "aten.exp", lambda x: x.exp().sum(), torch.tensor([100.0, 1.0])),
    "exp in place": (
        "NAN006",
        "aten.exp_",
        lambda x: (x * 1).exp_().sum(),
        torch.tensor([100.0, 1.0]),
    ),
    "softplus by hand": (
        "NAN006",
        "aten.exp",
        lambda x: torch.log(1 + x.exp()).sum(),
        torch.tensor([100.0, 1.0]),
    ),
    "rsample": (
        "NAN006",
        "aten.exp",
        lambda x: Normal(0.0, x.exp(), validate_args=False).rsample().pow(2).mean(),
        torch.tensor([200.0, 0.0]),
    ),
    # NAN007: powers
    "fraction": ("NAN007", "aten.pow", lambda x: x.pow(0.3).sum(), NEGATIVE),
    "power in place": ("NAN007", "aten.pow_", lambda x: (x * 1).pow_(0.3).sum(), NEGATIVE),
    "tensor exponent": ("NAN007", "aten.pow", lambda x: x.pow(x + 0.5).sum(), NEGATIVE),
    "negative exponent": ("NAN007", "aten.pow", lambda x: x.pow(-1.5).sum(), ZERO_ONE),
    # NAN008: inverses at their edge
    "acos": ("NAN008", "aten.rsqrt", lambda x: torch.acos(x).sum(), ONE),
    "acos in place": ("NAN008", "aten.rsqrt", lambda x: (x * 1).acos_().sum(), ONE),
    "acos of a cosine": (
        "NAN008",
        "aten.rsqrt",
        lambda x: torch.acos(F.cosine_similarity(x[0], x[1], dim=0)),
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
    ),
    "beyond": ("NAN008", "aten.acos", lambda x: torch.acos(x).sum(), torch.tensor([1.0001, 0.5])),
    "atanh": (
        "NAN008",
        "aten.atanh",
        lambda x: torch.atanh(x.tanh()).sum(),
        torch.tensor([50.0, 0.5]),
    ),
    "erfinv": ("NAN008", "aten.erfinv", lambda x: torch.erfinv(x).sum(), ONE),
    "logit": ("NAN008", "aten.logit", lambda x: torch.logit(x).sum(), ONE),
    # NAN009: angles
    "hypot": ("NAN009", "aten.div", lambda x: torch.hypot(x[:, 0], x[:, 1]).sum(), ZERO),
    # NAN014: half precision
    "half matmul": (
        "NAN014",
        "aten.mm",
        lambda x: (x.half()[:, None] @ x.half()[None]).float().sum(),
        torch.tensor([1e3, 1.0]),
    ),
    "half square": (
        "NAN014",
        "aten.pow",
        lambda x: x.half().pow(2).mean().float(),
        torch.tensor([300.0, 1.0]),
    ),
    "half cast": (
        "NAN014",
        "aten._to_copy",
        lambda x: x.half().float().sum(),
        torch.tensor([7e4, 1.0]),
    ),
    "half eps": (
        "NAN014",
        "aten.div",
        lambda x: (centred(x.half()) / (x.half().std(unbiased=False) + 1e-8)).float().sum(),
        torch.ones(2),
    ),
    # NAN023: outside the domain
    "root of a negative": ("NAN023", "aten.sqrt", lambda x: x.sqrt().sum(), NEGATIVE),
    "log of a negative": ("NAN023", "aten.log", lambda x: x.log().sum(), NEGATIVE),
    "log in place": ("NAN023", "aten.log_", lambda x: (x * 1).log_().sum(), NEGATIVE),
    "log1p below -1": ("NAN023", "aten.log1p", lambda x: (2 * x).log1p().sum(), NEGATIVE),
    "variance by hand": (
        "NAN023",
        "aten.sqrt",
        lambda x: ((x**2).mean() - x.mean() ** 2 - 1e-6).sqrt(),
        torch.ones(3),
    ),
    # NAN027: degenerate decompositions
    "eigh": (
        "NAN027",
        "aten.div_",
        lambda x: torch.linalg.eigh(x + x.T)[1].pow(3).sum(),
        torch.eye(3),
    ),
    "eigh of a batch": (
        "NAN027",
        "aten.div_",
        lambda x: torch.linalg.eigh(x @ x.mT)[1].pow(3).sum(),
        torch.stack([torch.eye(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]])]),
    ),
    "svd": ("NAN027", "aten.div", lambda x: torch.linalg.svd(x)[0].pow(3).sum(), torch.eye(3)),
    "logdet": ("NAN027", "aten._linalg_slogdet", lambda x: torch.logdet(x), torch.ones(3, 3)),
}


@pytest.mark.parametrize("name", SICK)
def test_a_cause_is_named_and_its_patch_cures(name: str, cause_of: CauseOf) -> None:
    code, op, function, given = SICK[name]
    found = cause_of(function, given)
    assert found is not None
    assert (found.code, found.op, found.confirmed) == (code, op, True)
    assert (found.source or "").startswith(str(Path(__file__)))


def test_the_line_is_that_of_the_call(cause_of: CauseOf) -> None:
    def spread(x: Tensor) -> Tensor:
        return x.sqrt()

    found = cause_of(lambda x: spread(x).sum(), ZERO_ONE)
    assert found is not None
    assert found.source == f"{__file__}:{spread.__code__.co_firstlineno + 1}"
    assert found.node == "SqrtBackward0"


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        (lambda x: (1 / x).sum(), torch.tensor([0.0, 2.0, 5.0]), "`count.clamp(min=1)`"),
        (lambda x: (1 / x).sum(), torch.tensor([0.0, 0.2, 0.3]), "usual size, which is 0.2 here"),
        (lambda x: (x**0.4).sum(), ZERO_ONE, "`x.clamp(min=eps) ** p`"),
        (lambda x: (x - 1).log1p().sum(), ZERO_ONE, "`x.clamp(min=0).log1p()`"),
    ],
)
def test_the_fix_fits_the_operator_and_the_scale(
    function: Callable[[Tensor], Tensor], given: Tensor, words: str, cause_of: CauseOf
) -> None:
    found = cause_of(function, given)
    assert found is not None
    assert words in found.fix
