"""From a symptom back to its birth, over a ledger of every operator of a replayed step."""

from nan_watch.origin.find import Origin as Origin
from nan_watch.origin.find import find_origin as find_origin
