from __future__ import annotations

from pathlib import Path

import pytest

from probes.command import check_device, prepare
from probes.errors import RequestError


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("diagnose", "gone.py:subject"), "`gone.py` was not found below"),
        (("gone.py:subject",), "`gone.py` was not found below"),
        (("hunt", "train.py"), "`train.py` names no subject"),
        (("explain", "XYZ999"), "`XYZ999` is no rule's code or name. The codes are FIT001 to FIT0"),
        (("explain", "more-paddin"), "Did you mean `more-padding`"),
        (("gone.py",), "`gone.py` names no subject: `FILE.py:NAME` or `package.module:NAME` was"),
        (("gone.py", "--quick"), "such as `gone.py:subject`"),
        (("nonsense",), "No such command 'nonsense'"),
        (("--quick", "gone.py:subject"), "`gone.py` was not found below"),
        (("--sizes", "5", "gone.py:subject", "--quick"), "`gone.py` was not found below"),
        (("hunt", "gone.py:subject", "--seed", str(2**64)), "Invalid value for '--seed'"),
    ],
)
def test_a_wrong_request_is_a_sentence_and_status_2(whynan, arguments, sentence: str) -> None:
    done = whynan(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rule_is_explained_by_its_name(whynan) -> None:
    assert whynan("explain", "more-padding").stdout == whynan("explain", "msk004").stdout


def test_versions_are_told(whynan) -> None:
    assert whynan("--version").stdout.startswith("whynan 0.")


def test_help_shows_words_and_no_limits_of_integers(whynan) -> None:
    said = whynan("notebook", "--help").stdout
    assert "[NAME]..." in said
    assert "9223372036854775808" not in said


def test_nothing_is_left_behind_by_a_wrong_request(whynan, tmp_path: Path) -> None:
    whynan("hunt", "gone.py:subject", "--out", "run")
    assert list(tmp_path.iterdir()) == []


def test_a_generators_first_batch_is_not_lost_to_the_look_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "from probes import Subject\n"
        "batches = (torch.full((2, 1), float(i)) for i in range(3))\n"
        "loss = lambda model, batch: model(batch).mean()\n"
        "adam = lambda model: torch.optim.Adam(model.parameters())\n"
        "subject = Subject(torch.nn.Linear(1, 1), batches, loss, adam, eval_batches=iter([1]))\n"
    )
    for device in (None, "cpu"):
        subject = prepare("train.py:subject", 0, device)
        for _ in range(2):
            assert [int(batch[0]) for batch in subject.batches] == [0, 1, 2]
            assert list(subject.eval_batches or ()) == [1]


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("gpu", "`--device gpu` is no device of torch"),
        ("cuda:64", "but torch finds"),
        ("meta", "but torch cannot compute there (NotImplementedError: Cannot copy out of meta"),
    ],
)
def test_a_device_that_is_not_there_is_named(device: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_device(device)
    assert sentence in str(caught.value)
