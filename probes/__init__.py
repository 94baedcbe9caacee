"""The ground floor: what a subject is, the four moves, the run record, findings and checks.

from probes import Subject
subject = Subject(model, batches, loss, optimizer)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from probes.finding import Evidence as Evidence
from probes.finding import Finding as Finding
from probes.finding import Verdict as Verdict
from probes.finding import judge as judge
from probes.layout import Labels as Labels
from probes.layout import Layout as Layout
from probes.layout import Mask as Mask
from probes.layout import Reads as Reads
from probes.layout import State as State
from probes.sisters import check_sisters

if TYPE_CHECKING:
    from probes.subject import Ratio as Ratio
    from probes.subject import Subject as Subject

check_sisters()


def __getattr__(name: str) -> Any:
    """`Subject` and `Ratio` are imported when they are asked for: torch takes seconds to load."""
    if name not in ("Ratio", "Subject"):
        raise AttributeError(f"module `probes` has no attribute `{name}`")
    value = globals()[name] = getattr(import_module("probes.subject"), name)
    return value
