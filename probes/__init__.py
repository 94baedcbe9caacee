"""The ground floor: what a subject is, the four moves, the run record, findings and checks.

from probes import Subject
subject = Subject(model, batches, loss, optimizer)
"""

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
from probes.subject import Ratio as Ratio
from probes.subject import Subject as Subject

check_sisters()
