"""Checkpoints of trainings as files: written whole or not at all, and read without trust.

The comment of the archive that torch writes holds the SHA-256 of the file as torch wrote it. torch and Lightning do not
read the comment, so they load these files like any other.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from autosample.artifact.building import build
from autosample.artifact.config import FETCHING, source_of
from autosample.artifact.files import check_whole
from autosample.errors import DAMAGED, ArtifactError, AutosampleError, one_line
from autosample.model.recipe import BUDGETS, Recipe
from autosample.system.checking import as_map, as_plain, as_text
from autosample.system.files import sweep_partials, whole

_MARK, _DIGITS = b"autosample sha256 ", 64
_TAIL = len(_MARK) + _DIGITS
# the end of an archive without a comment: its mark, and after 16 bytes the length of the comment
_END, _END_SIZE = b"PK\x05\x06", 22
_CHUNK = 1 << 20


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint with its digest, in a file beside `path` that then replaces `path`.

    Raises:
        ArtifactError: The file cannot be written; an earlier one is kept.
    """
    try:
        with whole(path) as partial:
            torch.save(checkpoint, partial)
            with partial.open("r+b") as file:
                _sign(file)
        sweep_partials(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
        raise ArtifactError(
            f"{path} cannot be written ({one_line(error)[:120]}): free some space; earlier checkpoints are kept"
        ) from error


def _sign(file: IO[bytes]) -> None:
    size = file.seek(-_END_SIZE, 2) + _END_SIZE
    if file.read(4) != _END:
        raise OSError("torch wrote no archive")
    digest = _digest(file, size - 2)
    file.seek(size - 2)
    file.write(struct.pack("<H", _TAIL) + _MARK + digest.encode())


def _digest(file: IO[bytes], size: int) -> str:
    """SHA-256 of the first `size` bytes and of an empty comment's length."""
    sha, left = hashlib.sha256(), size
    file.seek(0)
    while left > 0 and (chunk := file.read(min(_CHUNK, left))):
        sha.update(chunk)
        left -= len(chunk)
    sha.update(b"\0\0")
    return sha.hexdigest()


def _check_digest(path: Path) -> None:
    """Raise `ArtifactError` if the file has a digest that differs. Files of earlier versions have none."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = file.seek(max(0, size - _TAIL - _END_SIZE))
        tail = file.read()
        if (end := tail.rfind(_END)) < 0 or len(tail) < end + _END_SIZE:
            return  # torch says what is wrong
        length, comment = struct.unpack("<H", tail[end + _END_SIZE - 2 : end + _END_SIZE])[0], tail[end + _END_SIZE :]
        right = length == len(comment)
        if right and length == _TAIL:
            right = comment == _MARK + _digest(file, start + end + _END_SIZE - 2).encode()
        if not right:
            raise ArtifactError(f"{path} has another checksum than when it was written: {DAMAGED}")


def load_file(path: Path, map_location: Any = "cpu") -> Any:
    """What a checkpoint holds, after a check of its digest.

    Args:
        path: The file.
        map_location: As for `torch.load`.

    Raises:
        ArtifactError: The file is missing or damaged, or holds more than tensors and plain data.
    """
    if not path.is_file():
        check_whole(path)
        raise ArtifactError(f"a checkpoint must be a file, got {path}: look for *.ckpt in the folder of the run")
    try:
        _check_digest(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except ArtifactError:
        raise
    except Exception as error:  # torch can raise anything on a broken archive
        raise ArtifactError(
            f"{path} cannot be read as a checkpoint without running code ({one_line(error)[:100]}): use another copy"
        ) from error


def read_checkpoint(path: Path, map_location: Any = "cpu") -> Mapping[str, Any]:
    """A checkpoint of a `Classifier`, with its tensors and arguments checked.

    Raises:
        ArtifactError: The file is missing, damaged, or no checkpoint that `autosample fit` wrote.
    """
    saved = load_file(path, map_location)
    if not isinstance(saved, dict) or not {"state_dict", "hyper_parameters"} <= saved.keys():
        raise ArtifactError(f"a checkpoint must be written by `autosample fit`, got {path}: pass another file")
    check_state(saved["state_dict"])
    hyper = as_map(as_plain(saved["hyper_parameters"], "hyper_parameters"), "hyper_parameters")
    if "num_classes" not in hyper:
        raise ArtifactError(f"a checkpoint must be written by `autosample fit`, got {path}: pass another file")
    return {**saved, "hyper_parameters": hyper}


def check_state(state: Any) -> None:
    """Raise `ArtifactError` unless this is a mapping of names to dense tensors."""
    for name, tensor in as_map(state, "state_dict").items():
        if not _is_plain(tensor):
            raise ArtifactError(f"state_dict must hold dense tensors, got {name[:80]!r} of another kind: {DAMAGED}")


def _is_plain(tensor: Any) -> bool:
    """Whether this is a dense tensor that has memory for each of its numbers."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def local_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `Classifier` for a net whose weights come from a checkpoint: nothing else is fetched or read.

    Args:
        given: Arguments by name, from a checkpoint.

    Raises:
        ArtifactError: The model lies on a hub or in a folder, or an argument has the wrong type.
    """
    model = as_text(given.get("model", "resnet18"), "hyper_parameters.model")
    if ":" in model:  # timm takes such a name for a place
        raise ArtifactError(
            f"the net of a checkpoint must be in timm's registry, as reading fetches nothing, got {model[:80]!r}: "
            "train with timm's name of the model"
        )
    args = without_fetching(as_map(given.get("model_args") or {}, "hyper_parameters.model_args"))
    own = {"model": model, "model_args": args, "warm_start": False}
    own |= {"distill": 0.0, "teacher": None, "inherit": None}
    return {**given, **own, **dict.fromkeys(BUDGETS)}  # its ratio was found when it was built


def without_fetching(model_args: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Arguments of a net without those that fetch or read weights; `None` if there are no others."""
    return {name: value for name, value in (model_args or {}).items() if name not in FETCHING} or None


def checked_recipe(saved: Mapping[str, Any]) -> Recipe:
    """The recipe of the net in a checkpoint that `read_checkpoint` returned. It fetches and reads nothing.

    Raises:
        ArtifactError: There is no such net, or it is far larger than the file.
    """
    recipe, state = Recipe.of(local_arguments(saved["hyper_parameters"])), saved["state_dict"]
    sizes = {"num_classes": recipe.num_classes, "in_chans": recipe.in_chans}
    source = {"kind": "timm", "name": recipe.model, "arguments": {**sizes, **(recipe.model_args or {})}}
    build(source_of(source), None, state)  # without memory: a few bytes must not ask for a net of any size
    return recipe


@contextmanager
def buildable() -> Iterator[None]:
    """A context manager for building the net of a checkpoint: every error becomes an `ArtifactError` of one line."""
    try:
        yield
    except Exception as error:  # arguments from a file can make anything raise
        text = one_line(error) if isinstance(error, AutosampleError) else f"{type(error).__name__}: {one_line(error)}"
        raise ArtifactError(f"the model of this checkpoint cannot be built: {text[:200]}") from error
