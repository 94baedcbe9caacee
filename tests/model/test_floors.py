from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.evaluate import share
from model.floors import floors
from model.read import Interaction, Turn, read

SPARC = Path(
    os.environ.get("WHYNAN_SPARC", Path(__file__).parents[3] / "shared" / "data" / "sparc")
)


def interaction(*queries: str) -> Interaction:
    return Interaction("zoo", tuple(Turn("", line, tuple(line.split())) for line in queries), 0)


def test_floors_count_as_the_metrics_do() -> None:
    training = [interaction("select a.x", "select a.x where a.y = value")] * 2
    measured = [interaction("select b.x where b.y = value", "select b.z")]
    found = floors(training, measured)
    # of the first: select * _EOS b.x = value _EOS; of the second: select b.x _EOS
    assert share(found["token"]) == pytest.approx((4 / 7 + 2 / 3) / 2)
    assert found["string"] == (0, 2)
    assert found["key"] == (6, 7)
    assert found["db"] == (0, 3)
    again = floors(training, training)
    assert again["string"] == (0, 4)
    assert again["db"] == (2, 6)


@pytest.mark.slow
@pytest.mark.skipif(not SPARC.is_dir(), reason=f"SParC is not at {SPARC}")
def test_the_floors_of_sparc() -> None:
    training, dev = (read(SPARC, split=split).interactions for split in ("train", "dev"))
    found = {name: round(100 * share(ratio), 1) for name, ratio in floors(training, dev).items()}
    assert found == {"token": 57.5, "string": 1.0, "key": 72.0, "db": 38.7}
