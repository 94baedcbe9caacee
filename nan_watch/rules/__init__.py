"""Rules of health (GRD..., MEM...): one rule a file, judged on the readings of a run."""

from __future__ import annotations

from nan_watch.rules.apart import Apart
from nan_watch.rules.at_rest import AtRest
from nan_watch.rules.clipping import Clipping
from nan_watch.rules.dead_units import DeadUnits
from nan_watch.rules.exact_zero import ExactZero
from nan_watch.rules.exploding import Exploding
from nan_watch.rules.frozen_changes import FrozenChanges
from nan_watch.rules.nearing_edge import NearingEdge
from nan_watch.rules.no_gradient import NoGradient
from nan_watch.rules.not_held import NotHeld
from nan_watch.rules.out_of_memory import OutOfMemory
from nan_watch.rules.saturated_units import SaturatedUnits
from nan_watch.rules.steady_growth import SteadyGrowth
from nan_watch.rules.update_ratio import UpdateRatio
from nan_watch.rules.vanishing import Vanishing
from probes.finding import Health
from probes.run import Run

RULES: tuple[Health[Run], ...] = (
    Exploding(),
    Vanishing(),
    ExactZero(),
    NoGradient(),
    Clipping(),
    UpdateRatio(),
    DeadUnits(),
    SaturatedUnits(),
    NotHeld(),
    FrozenChanges(),
    SteadyGrowth(),
    NearingEdge(),
    AtRest(),
    Apart(),
    OutOfMemory(),
)
