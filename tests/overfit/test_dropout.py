from __future__ import annotations

import torch
from torch import nn

from overfit.dropout import switch_off


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_dropout = 0.3
        self.scale = 0.5


class DropPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = 0.2


def test_every_rate_is_off_and_named_and_nothing_else_changes() -> None:
    model = nn.Sequential(
        nn.Dropout(0.1), Attention(), DropPath(), nn.LSTM(2, 2, 2, dropout=0.4), nn.Dropout(0.0)
    )
    assert switch_off(model) == ("0.p", "1.attention_dropout", "2.p", "3.dropout")
    assert model[1].scale == 0.5
    assert switch_off(model) == ()


def test_training_repeats_to_the_bit_without_dropout() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    model = nn.Sequential(layer, nn.LSTM(8, 4, 2, dropout=0.5, batch_first=True)).train()
    x = torch.randn(3, 5, 8)
    assert not torch.equal(model(x)[0], model(x)[0])
    switch_off(model)
    assert torch.equal(model(x)[0], model(x)[0])
