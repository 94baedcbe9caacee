from __future__ import annotations

from pathlib import Path

import pytest

from probes.command import check_device
from probes.errors import RequestError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("diagnose", "gone.py:subject"), "`gone.py` was not found below"),
        (("gone.py:subject",), "`gone.py` was not found below"),
        (("hunt", "train.py"), "`train.py` names no subject"),
        (("explain", "XYZ999"), "`XYZ999` is no rule's code: the codes are"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_status_2(whynan, arguments, sentence: str) -> None:
    done = whynan(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_left_behind_by_a_wrong_request(whynan, tmp_path: Path) -> None:
    whynan("hunt", "gone.py:subject", "--out", "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("gpu", "`--device gpu` is no device of torch"),
        ("cuda:64", "but torch finds"),
    ],
)
def test_a_device_that_is_not_there_is_named(device: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_device(device)
    assert sentence in str(caught.value)
