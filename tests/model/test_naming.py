from __future__ import annotations

import pytest

from model.naming import NAMINGS, naming, stems

SAID = "What are the last names of all the owners living in those cities?"


def test_stems() -> None:
    assert stems("Cities' names, a class of 12 dogs") == {
        "city",
        "name",
        "class",
        "of",
        "12",
        "dog",
    }


@pytest.mark.parametrize(
    ("unit", "want"),
    [
        ("owner.last_name", 5),
        ("owner.city", 5),
        ("owner.first_name", 4),
        ("pet.name", 2),
        ("pet.weight", 0),
        ("owner.id", 3),
        ("owner.*", 3),
        ("pet.*", 0),
        ("*", 0),
    ],
)
def test_naming(unit: str, want: int) -> None:
    assert naming(unit, stems(SAID)) == want < NAMINGS
