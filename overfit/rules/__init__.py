"""The verdicts over a suite's curves, one a file: the first that fails leads the others."""

from __future__ import annotations

from overfit.curves import Curves
from overfit.rules.died import Died
from overfit.rules.memorised import Memorised
from overfit.rules.not_memorised import REASONS, NotMemorised
from probes.finding import Outcome

RULES: tuple[Outcome[Curves], ...] = (Died(), *REASONS, NotMemorised(), Memorised())
