"""The verdicts over a suite's curves, one a file, in reading order; exactly one of them holds."""

from __future__ import annotations

from overfit.curves import Curves
from overfit.rules.died import Died
from overfit.rules.diverged import Diverged
from overfit.rules.flat import Flat
from overfit.rules.memorised import Memorised
from overfit.rules.not_memorised import NotMemorised
from probes.finding import Outcome

RULES: tuple[Outcome[Curves], ...] = (Died(), Diverged(), Flat(), NotMemorised(), Memorised())
