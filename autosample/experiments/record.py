"""The record of a run: one JSON file, written atomically."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from autosample.errors import ConfigError, one_line
from autosample.experiments.identity import present
from autosample.system.files import write_text


@dataclass(frozen=True)
class Record:
    """The result of a run, and everything that decided it.

    Attributes:
        settings: The configuration, as given to the training.
        accuracy: Accuracy of the hardened model [0 … 1] on the test set, or on the held-out part if the test set is
            not read.
        stored_bytes, dense_bytes: Size of the saved model, and of the dense model [bytes].
        macs: Multiply-adds for one example.
        seconds: Wall time of the training [s].
        torch: Version of torch.
        cell: The canonical configuration of the grid's cell.
        scored_on: `test` or `val`: the part that `accuracy` is measured on.
        val_accuracy: Accuracy on the held-out part of the training data [0 … 1], if there is one.
        position_bits: Bits of all stored offsets and selections.
        dense_params: Numbers that the dense model stores.
        latency: Time of the deployed net at batch 1: `median`, `low` and `high` quartile [ms], and `threads`.
        moved: For each layer that learns offsets, how far they are from their start after each epoch [rows].
        speeds: For each layer that learns something, `unit` and, for each epoch, the mean path per step in this unit.
        notices: autosample's warnings of the run.
        windows: For the two largest layers, where their windows lie; see `windows.WindowMap`.
        machine: `device`, `hardware`, `threads` and `date` of the training.
        coded_bytes: Size of the model saved with Huffman codes [bytes]; 0 in records of earlier versions.
    """

    settings: dict[str, Any]
    accuracy: float
    stored_bytes: int
    dense_bytes: int
    macs: int
    seconds: float
    torch: str
    cell: dict[str, Any] = field(default_factory=dict)
    scored_on: str = "test"
    val_accuracy: float | None = None
    position_bits: int = 0
    dense_params: int = 0
    latency: dict[str, float] | None = None
    moved: dict[str, Any] = field(default_factory=dict)
    windows: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    coded_bytes: int = 0
    speeds: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Bytes of the dense model divided by the stored bytes."""
        return self.dense_bytes / self.stored_bytes

    @property
    def bits_per_weight(self) -> float:
        """Stored bits divided by the number of numbers in the dense model."""
        return 8 * self.stored_bytes / (self.dense_params or self.dense_bytes / 4)


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, one line per field."""
    parts = (f'"{name}": {json.dumps(value)}' for name, value in asdict(record).items())
    write_text(path, "{" + ",\n ".join(parts) + "}\n")


def read_record(path: Path) -> Record | None:
    """Read a record; `None` if the file does not exist.

    Raises:
        ConfigError: The file is not a record, or a newer version wrote it.
    """
    try:
        data = json.loads(path.read_text())
        if newer := _newer(data):
            raise ConfigError(f'{path} has the field "{newer[:40]}", so a newer version wrote it: upgrade autosample')
        record = as_record(data)
        if not isinstance(record.settings, dict) or not record.stored_bytes > 0 or not 0 <= record.accuracy <= 1:
            raise ValueError("settings, sizes or accuracy are missing or out of range")
        return record
    except FileNotFoundError:
        return None
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a record ({one_line(error)}): delete it") from error


def _newer(data: Any) -> str:
    """A field of a whole record that this version does not know; empty if there is none."""
    if not isinstance(data, dict):
        return ""
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(Record)}
    whole = all(name in data for name, needed in known.items() if needed)
    return next((name for name in data if whole and name not in known), "")


def as_record(data: Mapping[str, Any]) -> Record:
    """A record from plain data, also from data of version 0.1.0.

    The cell of an old record is translated. If it used something that was removed, it stays unchanged: the record is
    kept, but no grid finds it.

    Raises:
        TypeError: A field is missing or unknown.
    """
    record = Record(**data)
    maps = {name: _present_map(found) for name, found in record.windows.items()}
    return replace(record, cell=present(record.cell) or record.cell, windows=maps)


def _present_map(found: dict[str, Any]) -> dict[str, Any]:
    """A window map with the present names."""
    return {"offsets" if name == "positions" else name: value for name, value in found.items()}


def records_in(folder: Path) -> Iterator[tuple[Path, Record]]:
    """All records of a folder, by name."""
    for path in sorted(folder.glob("*.json")):
        if (record := read_record(path)) is not None:
            yield path, record
