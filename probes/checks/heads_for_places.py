"""IDX023: an attention over the heads of one token, and never over the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, Finding, Verdict
from probes.reading.alive import alive
from probes.scoring.wanted import causal_or_ahead, is_by_place
from probes.softmaxes.attended import Attended, attended
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class HeadsForPlaces:
    """Every attention runs over heads that were split off the channels, none over the places.

    Attention takes the last axis but one of queries and keys as that along which it looks. Where
    (sample, place, head, channel) is handed over without a transpose, each place weighs its own
    heads against each other and reads no other place. Told where every attention has the places
    among what it does apart and weighs as many things as a view made heads of the channels, and
    where, of each of a few places, other ids move the outputs of that place and of no other by a
    bit. Looked at are ids by sample and place, whose channels all come of one id, and keys that an
    output is declared, or asked, to read from the start on.

    Sick: `q = q.view(b, t, heads, d)`, and so `k` and `v`, then `scaled_dot_product_attention`.
    Healthy: the same with `.transpose(1, 2)` before it.
    """

    least: int = 4  # places

    code: ClassVar[str] = "IDX023"
    rule: ClassVar[str] = "heads-for-places"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key of places, and a loss."""
        if not _keys(experiment, self.least):
            return "no key holds ids by sample and place, and none is read from the start on"
        return experiment.lacks_loss

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, at the first attention."""
        keys = _keys(experiment, self.least)
        seen = attended(experiment) if keys else []
        for key in keys:
            places = experiment.tensors[key].shape[1]
            if seen and all(_is_over_heads(experiment, each, places) for each in seen):
                output = _apart(experiment, key)
                if output is not None:
                    yield self._finding(key, output, places, seen)
                    return

    def _finding(self, key: str, output: str, places: int, seen: list[Attended]) -> Finding:
        first, heads = seen[0], seen[0].weights.shape[-1]
        more = f", and so do {len(seen) - 1} more" if len(seen) > 1 else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the attention of `{first.site}` weighs the {heads} heads of one place "
            f"against each other, at each of the {places} places of `{key}` by itself{more}: no "
            f"place of `{output}` follows any other place of `{key}`.",
            fix="Bring queries, keys and values to (sample, head, place, channel) by "
            "`.transpose(1, 2)` before the attention, and back after it.",
            site=first.site,
            op="aten.scaled_dot_product_attention",
            phase="forward",
            source=first.source,
            evidence=(Evidence("heads that are weighed against each other", heads),),
        )


def _keys(experiment: Experiment, least: int) -> list[str]:
    """Those whose places an attention is to read."""
    keys = [key for key, tensor in experiment.tensors.items() if is_by_place(tensor)]
    keys += [each.key for each in causal_or_ahead(experiment) if each.shared == 2]
    return [key for key in dict.fromkeys(keys) if experiment.tensors[key].shape[1] >= least]


def _is_over_heads(experiment: Experiment, each: Attended, places: int) -> bool:
    """Whether it weighs what a view split off the channels, at each place by itself."""
    *_, apart, queries, heads = each.weights.shape
    if queries != heads or heads < 2 or apart != places:
        return False
    return any(
        view.before[:2] == tuple(view.out.shape[:2])
        and view.before[1:2] == (places,)
        and view.out.ndim >= 4
        and view.out.shape[-2] == heads
        and view.before[-1] % (heads * view.out.shape[-1]) == 0
        for view in alive(experiment).views
    )


def _apart(experiment: Experiment, key: str) -> str | None:
    """The output each place of which follows its own place of the key, and no other to the bit."""
    tensor = experiment.tensors[key]
    lead, found = tuple(tensor.shape[:2]), set(experiment.outputs)
    for at in {0, lead[1] // 2, lead[1] - 2}:
        only = torch.zeros(lead, dtype=torch.bool, device=tensor.device)
        only[:, at] = True
        other = vary(tensor, only)
        if other is None:
            return None
        ran = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs
        for name in sorted(found):
            now, new = experiment.outputs[name], ran.get(name)
            if new is None or new.shape != now.shape or tuple(now.shape[:2]) != lead:
                found.discard(name)
                continue
            moved = (now != new).reshape(*lead, -1).any(-1).any(0)
            if not bool(moved[at]) or int(moved.sum()) != 1:
                found.discard(name)
    return min(found, default=None)
