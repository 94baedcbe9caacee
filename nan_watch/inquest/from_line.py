"""Calls that are made again from the line of the user's that made them first."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from nan_watch.origin.sources import LOOP, Kind, kind_of


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the user's own; or of the loop of ours, which nobody is shown."""

    file: str = LOOP
    number: int = 1

    @classmethod
    def of(cls, frame: FrameType | None) -> Line:
        """That of the frame, or of the innermost of its callers that the user wrote."""
        while frame is not None and frame.f_code.co_filename != LOOP:
            if kind_of(frame.f_code.co_filename) is Kind.USER:
                return cls(frame.f_code.co_filename, frame.f_lineno)
            frame = frame.f_back
        return cls()

    def call(self, function: Callable[[], Any]) -> Any:
        """What the function returns, called from a frame that stands at the line."""
        tree = ast.increment_lineno(ast.parse("told = call()"), self.number - 1)
        names: dict[str, Any] = {"call": function}
        exec(compile(tree, self.file, "exec"), names)
        return names["told"]
