"""Which files make up a checkpoint, and which checkpoints a path stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.errors import RequestError

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
NO_WEIGHTS = re.compile(r"training_args|rng_state|scheduler|scaler|dataloader")
SHARD = re.compile(r"\d+-of-\d+")


@dataclass(frozen=True, slots=True)
class Place:
    """A checkpoint on disk: what it is called, and its files."""

    name: str
    files: tuple[Path, ...]


def places(paths: Sequence[Path]) -> list[Place]:
    """The checkpoints that the paths stand for, in their order; a folder of several gives all.

    Raises RequestError where a path is not there or holds no checkpoint.
    """
    return [place for path in paths for place in _at(path)]


def is_optimizer(path: Path) -> bool:
    """Whether the file's name says that it holds an optimizer's state."""
    return "optim" in path.stem


def _at(path: Path) -> list[Place]:
    if path.is_dir():
        found = _of_folder(path)
        if found:
            return found
        raise RequestError(_nothing_in(path))
    if not path.is_file():
        raise RequestError(
            f"`{path}` was not found below {Path.cwd()}: give the path of a checkpoint, a file or "
            "a folder."
        )
    if path.name.endswith(".index.json"):
        return [_sharded(path)]
    if path.suffix != ".safetensors" and path.suffix not in PICKLES:
        raise RequestError(
            f"`{path}` is no checkpoint by its name: a file ending in .safetensors, "
            f"{', '.join(PICKLES)} or .index.json, or a folder of them, was expected."
        )
    return [Place(path.name, (path,))]


def _of_folder(folder: Path) -> list[Place]:
    """The folder's own checkpoint, or the checkpoints that it holds, in the order of numbers."""
    own = list(_own(folder))
    if own:
        return own
    children = sorted((child for child in folder.iterdir() if child.is_dir()), key=_by_numbers)
    return [
        Place(f"{child.name}/{place.name}" if len(inner) > 1 else child.name, place.files)
        for child in children
        for inner in [list(_own(child))]
        for place in inner
    ]


def _own(folder: Path) -> Iterator[Place]:
    name = folder.name or folder.resolve().name
    for index in INDEXES:
        if (folder / index).is_file():
            sharded = _sharded(folder / index)
            yield Place(name, (*sharded.files, *_optimizers(folder)))
            return
    tensors = sorted(folder.glob("*.safetensors"))
    if tensors:
        yield Place(name, (*tensors, *_optimizers(folder)))
        return
    pickles = [path for path in _pickles(folder) if not is_optimizer(path)]
    if len(pickles) <= 1 or all(SHARD.search(path.stem) for path in pickles):
        files = (*pickles, *_optimizers(folder))
        if files:
            yield Place(name, files)
        return
    yield from (Place(path.name, (path,)) for path in pickles)


def _pickles(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix in PICKLES and path.is_file()]
    return sorted((p for p in found if not NO_WEIGHTS.search(p.stem)), key=_by_numbers)


def _optimizers(folder: Path) -> list[Path]:
    return [path for path in _pickles(folder) if is_optimizer(path)]


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """Sorts `step-9` before `step-10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _cut(path.name)]


def _cut(name: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", name) if part]


def _sharded(index: Path) -> Place:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = tuple(index.parent / name for name in sorted(set(names)))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RequestError(
            f"`{index}` is not the index of a sharded checkpoint ({type(error).__name__}: {error}):"
            " a JSON object whose `weight_map` names a file for each tensor was expected; it was "
            "cut or changed, so copy the checkpoint again."
        ) from error
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise RequestError(
            f"`{index}` names {len(files)} files, but {len(missing)} of them are not in its "
            f"folder (`{missing[0]}` first): copy the whole checkpoint."
        )
    return Place(index.parent.resolve().name, files)


def _nothing_in(folder: Path) -> str:
    if any(folder.glob("*.distcp")):
        return (
            f"`{folder}` is a distributed checkpoint (`.distcp` files), which is not read here: "
            "make one file of it by `python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {folder} model.pt`."
        )
    return (
        f"`{folder}` holds no checkpoint: files ending in .safetensors or "
        f"{', '.join(PICKLES)}, or folders of them, were expected; name another folder."
    )
