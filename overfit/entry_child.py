"""An experiment of a notebook in a process of its own: the job, and what runs in the child."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

from overfit.child import Mouth, serve
from probes import strict_json


@dataclass(frozen=True, slots=True)
class EntryJob:
    """An entry that a child is asked to run."""

    module: ClassVar[str] = "overfit.entry_child"

    notebook: str
    name: str
    seed: int
    quick: bool
    threads: int
    folder: Path
    device: str | None = None

    def line(self) -> str:
        """The job as one line of JSON, with the time at which it was handed over."""
        row = {**asdict(self), "folder": str(self.folder)}
        return json.dumps({**row, "argv": sys.argv, "started": time.time()}) + "\n"

    def died(self, said: str) -> None:
        """The record, made where there was none, tells how the child ended before its time."""
        path = self.folder / "run.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"complete": False, "settings": {"name": self.name}}
        if path.is_file():
            facts = json.loads(path.read_text(encoding="utf-8"))
        facts["settings"]["wrong"] = said
        strict_json.write(path, facts)


def main() -> None:
    """The experiment has run; ends with the status that says how."""
    serve(_run)


def _run(row: dict[str, Any], out: TextIO) -> int:
    import torch

    from overfit.experiment import Tried, run_entry
    from overfit.notebook import load_notebook
    from probes.errors import RequestError

    torch.set_num_threads(row["threads"])
    began, device = row["started"], row["device"]
    tried = Tried(row["quick"], row["seed"], lambda: time.time() - began, device)
    try:
        entry = load_notebook(row["notebook"]).entry(row["name"])
        run_entry(entry, tried, Path(row["folder"]), Mouth(out))
    except RequestError as error:  # the record tells; the other experiments go on
        print(error, file=sys.stderr)
    return 0


if __name__ == "__main__":
    main()
