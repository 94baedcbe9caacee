"""Checkpointing, parametrizations, ties, sparse and small dtypes: silent, equal, and named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from nan_watch import NanWatch, PoisonedStep
from probes.finding import Verdict

pytestmark = pytest.mark.slow


class Body(nn.Module):
    """Twice a layer; its sum is divided by a length, which may be nothing."""

    def __init__(self, layer: nn.Module | None = None, times: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8) if layer is None else layer
        self.times = times

    def forward(self, hidden: Tensor, length: Tensor) -> Tensor:
        for _ in range(self.times):
            hidden = self.layer(hidden).tanh()
        return hidden * length[:, None] / length[:, None]  # HERE


class Net(nn.Module):
    def __init__(
        self,
        body: Body | None = None,
        reentrant: bool | None = None,
        sparse: bool = False,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 8, sparse=sparse)
        self.body = Body() if body is None else body
        self.head = nn.Linear(8, 12)
        self.reentrant = reentrant
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor, length: Tensor) -> Tensor:
        hidden = self.words(ids).mean(1)
        length = length.to(hidden.dtype)
        if self.reentrant is None:
            hidden = self.body(hidden, length)
        else:
            hidden = checkpoint(self.body, hidden, length, use_reentrant=self.reentrant)
        return self.head(hidden)


class Quantised(nn.Module):
    """A frozen layer in eight bits, and a small one beside it that is trained."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(8, 8)
        self.scale: Tensor
        self.register_buffer("scale", weight.abs().max() / 127)
        self.bits: Tensor
        self.register_buffer("bits", (weight / self.scale).round().to(torch.int8))
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.bits.to(x.dtype) * self.scale).T + self.up(self.down(x))


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(8, 8))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "checkpoint": lambda: Net(reentrant=False),
    "checkpoint, reentrant": lambda: Net(reentrant=True),
    "weight norm": lambda: Net(Body(weight_norm(nn.Linear(8, 8)))),
    "weight norm by a hook": lambda: Net(Body(old_weight_norm())),
    "spectral norm": lambda: Net(Body(spectral_norm(nn.Linear(8, 8)))),
    "tied": lambda: Net(tied=True),
    "sparse": lambda: Net(sparse=True),
    "called many times": lambda: Net(Body(times=5)),
    "bfloat16": lambda: Net().to(torch.bfloat16),
    "float16": lambda: Net().to(torch.float16),
    "quantised": lambda: Net(Body(Quantised())),
}


def trained(
    name: str, zero_at: int | None, watched: bool, folder: Path
) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = NanWatch(model, optimizer, out=folder)

    def step(ids: Tensor, length: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids, length).float(), ids[:, 0])
        loss.backward()
        optimizer.step()
        return loss

    def loop() -> None:
        chance = torch.Generator().manual_seed(0)
        for number in range(3):
            ids = torch.randint(12, (6, 5), generator=chance)
            length = torch.full((6,), 4.0)
            if number == zero_at:
                length[2] = 0.0
            if watched:
                watch.step(partial(step, ids, length), batch={"ids": ids, "length": length})
            else:
                step(ids, length)

    if watched:
        with watch:
            loop()
    else:
        loop()
    return model, watch.findings if watched else ()


@pytest.mark.parametrize("name", MODELS)
def test_silent_equal_to_the_bit_and_named(name: str, tmp_path: Path) -> None:
    bare, _ = trained(name, None, False, tmp_path / "none")
    model, findings = trained(name, None, True, tmp_path / "healthy")
    assert not [each for each in findings if each.verdict is not Verdict.NOTE]
    pairs = zip(bare.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    with pytest.raises(PoisonedStep) as caught:
        trained(name, 1, True, tmp_path / "sick")
    [line] = [
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith("# HERE")
    ]
    found = caught.value.finding
    assert (found.code, found.source) == ("NAN004", f"{__file__}:{line}")
    assert (found.step, found.samples) == (1, (2,))
