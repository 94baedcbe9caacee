"""What a Ray worker runs: the job's process, in the run folder or, out of its sight, in another."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overfit.process import PATIENCE, START


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that is to run on another machine, or on this one.

    line: what its process reads. folder: its part of the run folder. seen: a file that is there
    where the worker sees the run folder itself. home: the folder in which it is to run.
    """

    module: str
    line: str
    folder: str
    seen: str
    home: str


def served(asked: Asked, path: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every `line` that the process says, and at last its `status`, errors (`said`) and `files`.

    files: a tar of its part of the run folder, None where the worker wrote into that itself.
    """
    if Path(asked.seen).is_file():
        yield from _run(asked, path, asked.line, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "parts" / Path(asked.folder).name
        row = {**json.loads(asked.line), "folder": str(part)}
        yield from _run(asked, path, json.dumps(row) + "\n", part)


def _run(
    asked: Asked, path: Sequence[str], line: str, part: Path | None
) -> Iterator[dict[str, Any]]:
    home = asked.home if Path(asked.home).is_dir() else None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START.format(asked.module), json.dumps(list(path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it died at once; its status tells
                process.stdin.write(line)
                process.stdin.flush()
            for said in process.stdout:
                yield {"line": said}
            process.wait()  # all is said; an interpreter may take its time to leave
        finally:  # a cancelled task ends here, and its process with it
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        errors.seek(0)
        told = errors.read().decode(errors="replace")
    yield {"status": process.returncode, "said": told, "files": packed(part)}


def packed(part: Path | None) -> bytes | None:
    """The folder as a tar; None where there is none."""
    if part is None or not part.is_dir():
        return None
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(part, arcname=".")
    return out.getvalue()


def unpacked(files: bytes, folder: Path) -> None:
    """The folder holds what was packed."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(files)) as tar:
        tar.extractall(folder, filter="data")
