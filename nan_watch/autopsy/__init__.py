"""What stored weights say of how a run ended, without the code that made them.

found = autopsy([Path("runs/a/step-000100"), Path("runs/a/step-000200")])
found.judgement.findings
"""

from nan_watch.autopsy.examine import RULES as RULES
from nan_watch.autopsy.examine import Autopsy as Autopsy
from nan_watch.autopsy.examine import autopsy as autopsy
