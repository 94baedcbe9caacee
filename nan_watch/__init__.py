"""The watch that can stay on for ever: finds what is not finite and keeps it out of the weights.

with NanWatch(model, optimizer) as watch:
    ...  # the loop, unchanged
"""

from probes.sisters import check_sisters

check_sisters()

from nan_watch.guard import PoisonedStep as PoisonedStep  # noqa: E402
from nan_watch.watch import NanWatch as NanWatch  # noqa: E402
