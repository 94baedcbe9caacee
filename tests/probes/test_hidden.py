from __future__ import annotations

import pytest
import torch
from torch import Tensor

from probes import Layout, Mask
from probes.guess import complete
from probes.masking.hidden import Hidden, hidden
from probes.vary import vary

KEEP = torch.arange(5) < torch.tensor([5, 3, 2])[:, None]


def found(layout: Layout | None = None, **batch: Tensor) -> list[Hidden]:
    full = complete(batch, layout).layout
    return list(hidden(full, layout or Layout(), batch))


def test_every_way_to_mask_gives_the_same() -> None:
    ids = torch.randint(1, 9, (3, 5)) * KEEP
    for name, mask in (
        ("attention_mask", KEEP.long()),
        ("padding_mask", ~KEEP),
        ("lengths", KEEP.sum(1)),
    ):
        (each,) = found(ids=ids, **{name: mask})
        assert torch.equal(each.keep, KEEP)
        assert each.guessed is not None
    declared = Layout(masks=(Mask("ids", hides=("ids",), axis=1, means="id"),))
    (each,) = found(declared, ids=ids)
    assert torch.equal(each.keep, KEEP)
    assert each.guessed is None


@pytest.mark.parametrize(
    ("name", "mask", "ids"),
    [
        ("loss_mask", KEEP, torch.ones(3, 5).long()),  # of a loss, by its name
        ("mask", KEEP, torch.arange(15).view(3, 5)),  # what it hides is no padding
        ("mask", torch.tensor([[1, 0, 1, 0, 1]] * 3), torch.zeros(3, 5).long()),  # not one end
    ],
)
def test_what_does_not_look_like_padding_is_not_guessed(
    name: str, mask: Tensor, ids: Tensor
) -> None:
    assert found(**{"ids": ids, name: mask}) == []


def test_a_mask_is_laid_over_values_of_many_shapes() -> None:
    keep = torch.ones(2, 3, 4, dtype=torch.bool)
    keep[1, 2, 3] = False
    each = Hidden(Mask("m"), "x", keep, None, None)

    def seen(*shape: int) -> int | None:
        look = each.over(shape)
        return None if look is None else int((~look.expand(shape)).sum())

    assert seen(2, 3, 4) == 1
    assert seen(2, 3, 4, 6) == 6  # with features
    assert seen(6, 4, 6) == 6  # (sample * turn, token, feature)
    assert seen(24, 6) == 6
    assert seen(2, 3, 7) == 0  # pooled over what the mask hides
    assert seen(6, 7) == 0
    assert seen() == 0
    assert seen(5, 4, 7) is None  # of unknown axes
    assert seen(6, 13, 7) is None  # (sample * turn, all that came before, feature), perhaps
    assert seen(2, 3, 8, 7) is None
    flat = Hidden(Mask("m"), "x", KEEP, None, None)
    turned = flat.over((5, 3, 2))
    assert turned is not None
    assert torch.equal(turned[..., 0], KEEP.T)


def test_named_axes_decide_over_shapes() -> None:
    each = Hidden(Mask("m"), "x", KEEP, ("sample", "token"), None)
    over_time = each.over((3, 5, 2), ("sample", "time", "feature"))
    assert over_time is not None
    assert bool(over_time.all())
    assert each.over((3, 2, 5), ("sample", "feature", "token")) is None


def test_other_values_occur_in_the_tensor_and_differ_everywhere() -> None:
    ids = torch.tensor([[3, 7, 9], [7, 0, 0]])
    where = torch.tensor([[False, True, True], [False, True, True]])
    other = vary(ids, where, pool=torch.tensor([3, 7, 9]))
    assert other is not None
    assert bool((other != ids)[where].all())
    assert torch.equal(other[~where], ids[~where])
    assert set(other[where].tolist()) <= {3, 7, 9}
    assert vary(torch.zeros(2, 3).long(), where) is None
    flags = vary(torch.tensor([[True, False, True]] * 2), where)
    assert flags is not None
    assert flags.dtype is torch.bool
    numbers = vary(torch.ones(2, 3), where)
    assert numbers is not None
    assert bool((numbers != 1)[where].all())


def test_a_mask_of_samples_by_places_is_laid_behind_channels_where_asked() -> None:
    each = Hidden(Mask("m"), "x", KEEP, None, None)
    for shape in ((3, 7, 5), (3, 7, 5, 2)):
        assert each.over(shape) is None
        look = each.behind_channels(shape)
        assert look is not None
        assert torch.equal(look.expand(shape)[:, 4].reshape(3, 5, -1)[..., 0], KEEP)
    assert each.behind_channels((3, 2, 5, 5)) is None  # weights of queries by keys
