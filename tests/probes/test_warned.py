from __future__ import annotations

import warnings

from probes.warned import warned_once


def test_a_warning_is_shown_once_though_filters_change() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        with warned_once():
            for word in ("same", "same", "other"):
                warnings.warn(word, stacklevel=1)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
    assert [str(each.message) for each in seen] == ["same", "other"]
