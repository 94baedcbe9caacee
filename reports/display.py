"""A report, or attention maps, in a notebook's output cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from probes.attention import AttentionMap
from probes.run import Run
from reports.figures.attention import Attention
from reports.gallery import ALONE, gallery
from reports.render import framed, text_of

HIGH = 720  # pixels


@dataclass(frozen=True, slots=True)
class Shown:
    """A whole page, which a notebook shows in a frame of its own."""

    page: str

    def _repr_html_(self) -> str:
        """The page in a frame: its styles and keys stay inside."""
        return (
            f'<iframe srcdoc="{escape(self.page)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{HIGH}px;border:1px solid #8888" title="whynan"></iframe>'
        )


def show(what: Path | str | Run | Sequence[AttentionMap]) -> Shown:
    """The report of a run folder, or what `probes.attention.attention_maps` returned, to look at.

    Raises RequestError where the folder is no run folder.
    """
    if isinstance(what, (Path, str)):
        what = Run(Path(what))
    if isinstance(what, Run):
        return Shown(text_of(what))
    maps = [each for map_ in what for each in _of(map_)]
    return Shown(framed("maps.html", maps=gallery(maps, ALONE), count=len(maps)))


def _of(map_: AttentionMap) -> list[Attention]:
    """One map a sample; entries are called by their numbers."""
    weights = map_.weights.detach().float().cpu().numpy()  # (sample, head, query, key)
    samples, heads, queries, keys = weights.shape
    masked, hidden = map_.masked_rows.cpu().numpy(), map_.masked_keys.cpu().numpy()
    return [
        Attention(
            name=f"map-{map_.layer}-{map_.call}-{sample}",
            site=map_.site,
            layer=map_.layer,
            sample=f"sample {sample}",
            row=f"call {map_.call}" if map_.call else None,
            heads=tuple(map(str, range(heads))),
            weights=weights[sample],
            query_axis="query",
            key_axis="key",
            queries=tuple(map(str, range(queries))),
            keys=tuple(map(str, range(keys))),
            query_padding=np.zeros(queries, bool),
            key_padding=np.zeros(keys, bool),
            hidden=hidden[sample],
            masked=masked[sample],
        )
        for sample in range(samples)
    ]
