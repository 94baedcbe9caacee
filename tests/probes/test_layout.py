from __future__ import annotations

import pytest

from probes import Labels, Layout, Mask, Reads, State
from probes.errors import RequestError


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    mask = Mask("mask")
    assert mask.hides == ("ids",)
    assert (mask.axis, mask.means, mask.side, mask.may_be_empty) == (
        "token",
        "keep",
        "right",
        False,
    )
    labels = Labels("y", "logits")
    assert (labels.shift, labels.ignore, labels.kind, labels.mask) == (0, -100, "class", None)
    reads = Reads("logits", "ids")
    assert (reads.rule, reads.keys) == ("same", ())
    state = State("rnn")
    assert state.over == "time"
    assert (state.carried, state.detached) == (True, False)
    assert Layout() == Layout(axes={}, masks=(), labels=(), reads=(), states=(), names={})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Mask("m", ("ids",), means="keeps"),
            "`Mask.means` is 'keeps', which is none",
        ),
        (lambda: Mask("m", ("ids",), side="top"), "`Mask.side` is 'top'"),
        (lambda: Mask("m", ("ids",), axis="tokens"), "`Mask.axis` is 'tokens'"),
        (lambda: Labels("y", "o", kind="float"), "`Labels.kind` is 'float'"),
        (lambda: Reads("o", "ids", rule="past"), "`Reads.rule` is 'past'"),
        (lambda: Reads("o", "ids", rule="at"), "has no `keys`: name the batch keys"),
        (lambda: State("rnn", over="day"), "`State.over` is 'day'"),
        (
            lambda: Layout(axes={"ids": ("sample", "word")}),
            "`Layout.axes['ids']` names the axis",
        ),
    ],
)
def test_a_wrong_word_is_named_with_the_right_ones(make, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        make()
    assert sentence in str(caught.value)
