"""MSK012: a mask is laid over the scores of an attention in a way that hides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.softmaxes.applied import Applied
from probes.softmaxes.attended import applied
from probes.softmaxes.trace import HIDDEN


@dataclass(frozen=True, slots=True)
class HidesNothing:
    """An attention's mask adds a number no larger than a score is, or multiplies the scores.

    Torch's attention adds a mask of floats: 1 for what is visible and 0 for what is not, as of
    `torch.tril(torch.ones(t, t))`, hides nothing, while a mask of booleans would. Looked at is what
    is added to the scores, multiplied onto them or filled into them just before their softmax:
    truths of 0 and 1 that have the form of a mask (nothing after, nothing before, a band, an end of
    each row, segments); -1e-9 for -1e9; a mask of 0 and -inf that is multiplied; a fill of 0, or of
    a large number with the sign turned. What gets no weight in the end, since it is masked again
    after, is silence, and so are biases of other forms or of more than two values.

    Sick: `attention(x, x, x, attn_mask=torch.tril(torch.ones(t, t)))`.
    Healthy: `attention(x, x, x, attn_mask=torch.ones(t, t, dtype=torch.bool).triu(1))`.
    """

    small: float = 1e-2  # numbers that are nothing beside a score
    large: float = 100.0  # numbers beside which a score is nothing

    code: ClassVar[str] = "MSK012"
    rule: ClassVar[str] = "hides-nothing"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """An attention that is given a mask of two values."""
        if not applied(experiment):
            return "no attention lays a mask of two values over its scores"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a line of code, with the first module."""
        found: dict[str, list[tuple[Applied, str, str]]] = {}
        for each in applied(experiment):
            why = self._why(each)
            if why is not None:
                found.setdefault(each.source or each.site, []).append((each, *why))
        for calls in found.values():
            yield self._said(*calls[0], len({each.site for each, _, _ in calls}) - 1)

    def _why(self, each: Applied) -> tuple[str, str] | None:
        """What is wrong with it, where {} stands for the scores' place, and what to do."""
        low, high = each.values
        truths, formed = (low, high) in ((0, 1), (-1, 0)), _is_formed(each.mask)
        if each.how == "fill":
            return self._filled(each, formed)
        if not _is_read_everywhere(each):
            return None
        if each.how == "multiply":
            return _multiplied(low, high, truths and formed)
        if truths and formed:
            return (
                f"a mask of {low:g} and {high:g} is added to the scores of {{}}, moves them by 1, "
                "and hides nothing",
                "Give booleans, whose meaning the function tells (torch's modules hide where True, "
                "`F.scaled_dot_product_attention` where False), or floats of 0 and -inf.",
            )
        if 0 in (low, high) and max(abs(low), abs(high)) <= self.small:
            words = f"a mask of 0 and {low or high:g} is added to the scores of {{}}, which is"
            return f"{words} nothing beside them", _FILL
        return None

    def _filled(self, each: Applied, formed: bool) -> tuple[str, str] | None:
        value = each.value or 0.0
        if not bool((each.weights[each.mask != 0] != 0).any()):
            return None
        words = f"hidden scores of {{}} are filled with {value:g}"
        if 0 < abs(value) <= self.small or (value == 0 and formed):
            return f"{words}, which is a score like others", _FILL
        if value >= self.large and formed:
            return f"{words}, so that nothing else is attended to", _FILL
        return None

    def _said(self, each: Applied, what: str, fix: str, more: int) -> Finding:
        low, high = each.values
        hidden = each.mask != 0 if each.how == "fill" else each.mask == _hidden_value(each)
        share = float(each.weights[hidden].sum() / each.weights.sum())
        also = f"; {more} more modules are given such a mask" if more > 0 else ""
        values = f"{low:g} and {high:g}" if each.value is None else f"{each.value:g}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{what.format(f'`{each.site}`')}: {100 * share:.2g}% of all weight lies on "
            f"what is to be hidden{also}.",
            fix=fix,
            site=each.site,
            phase="forward",
            source=each.source,
            evidence=(
                Evidence("share of the weight on what is to be hidden", share, 0),
                Evidence("what stands for hidden and for visible", values),
            ),
        )


_FILL = "Fill hidden scores with -inf: `scores.masked_fill(~keep, float('-inf'))`."


def _multiplied(low: float, high: float, formed: bool) -> tuple[str, str] | None:
    if high == 0 and low <= HIDDEN:
        return (
            f"a mask of {low:g} and 0 is multiplied onto the scores of {{}}, where it is to be "
            "added: what is visible gets a score of 0, and what is hidden one of either sign",
            "Add it.",
        )
    words = "a mask of truths is multiplied onto the scores of {}, so that hidden ones are 0"
    return (f"{words}, which is a score like others", _FILL) if formed else None


def _hidden_value(each: Applied) -> float:
    """Of two values the one that means hidden: above the diagonal, or at the end of rows."""
    low, _ = each.values
    if each.how == "multiply" and low <= HIDDEN:
        return low
    last, first = each.mask[..., 0, -1], each.mask[..., 0, 0]
    if low < 0:
        return low
    return float(last.flatten()[0]) if bool((last != first).all()) else low


def _is_read_everywhere(each: Applied) -> bool:
    """Whether both what is hidden and what is not get some weight in the end."""
    low, high = each.values
    return all(bool((each.weights[each.mask == value] != 0).any()) for value in (low, high))


def _is_formed(mask: Tensor) -> bool:
    """Whether truths have a mask's form: of what is after or before, a band, ends, segments."""
    truths = mask.flatten(0, -3) if mask.ndim > 3 else mask
    truths = truths.reshape(-1, *truths.shape[-2:]) if truths.ndim > 1 else truths[None, None]
    low, high = torch.aminmax(truths.to(torch.float32))
    shown = truths.to(torch.float32) == high
    return any(_is_form(each) for each in (shown, ~shown)) and bool(low != high)


def _is_form(shown: Tensor) -> bool:
    """(row, query, key) the same for what is shown."""
    queries, keys = shown.shape[1:]
    if bool((shown == shown[:, :1]).all()):  # by key alone
        return bool(((shown[:, 0, 1:] != shown[:, 0, :-1]).sum(1) <= 1).all())
    own = torch.eye(queries, keys, dtype=torch.bool, device=shown.device)
    if queries != keys or not bool(shown[:, own].any(1).all()) or bool((shown == own).all()):
        return False
    if not bool(shown.triu(1).any()) or not bool(shown.tril(-1).any()):
        return True
    if torch.equal(shown[:, 1:, 1:], shown[:, :-1, :-1]):
        return True  # by distance alone
    near = shown.float()
    whole = bool(shown[:, own].all()) and torch.equal(shown, shown.mT)
    return whole and torch.equal(near @ near > 0, shown)
