"""What an adapter rests on in its framework, asked for by name: versions differ in it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from probes.errors import RequestError


def known(owner: Any, name: str, framework: str) -> Any:
    """`owner.name`. Raises RequestError where this version of the framework has none."""
    try:
        return getattr(owner, name)
    except AttributeError:
        raise RequestError(
            f"{framework} {_version(framework)} is of a version that is not known here: its "
            f"{type(owner).__name__} has no `{name}`, which was expected. Take another version, or "
            f"leave `WatchCallback` out and put `with NanWatch(model, optimizer):` around the "
            "training."
        ) from None


def stranger(name: str, own: str, other: str) -> AttributeError:
    """What a callback says that another framework, or another version, asks for this attribute."""
    return AttributeError(
        f"this `WatchCallback` is that of `nan_watch.adapters.{own}` and has no `{name}`: a "
        f"{own} Trainer of a known version does not ask for it; for a {other} Trainer, import it "
        f"from `nan_watch.adapters.{other}`."
    )


def _version(framework: str) -> str:
    try:
        return metadata.version(framework)
    except metadata.PackageNotFoundError:
        return "of no version"
