"""Whether a model can memorise 5 and 20 samples, and if not, which of a few things is true.

from overfit import diagnose
run = diagnose("train.py:subject", sizes=(5, 20))
print(run.judgement.verdict, run.folder / "report.html")
"""

from overfit.demand import assert_healthy as assert_healthy
from overfit.demand import assert_memorises as assert_memorises
from overfit.diagnose import diagnose as diagnose
from probes.sisters import check_sisters

check_sisters()
