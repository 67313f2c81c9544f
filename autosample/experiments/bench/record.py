"""The result of a measurement: rows, their verdicts, and one JSON record for each suite and number of threads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autosample.errors import ConfigError, one_line
from autosample.experiments.bench.cases import Workload
from autosample.system.files import write_json
from autosample.system.timing import Ratio


@dataclass(frozen=True)
class Measured:
    """One side of a row.

    Attributes:
        median, low, high: Median and quartiles of one call [s].
        rounds: Calls that they are taken over.
        difference: Largest difference of the outputs from those of dense eager torch, relative to its largest.
        peak: Memory at its peak: weights, outputs and all between [bytes], or `None` where it was not measured.
    """

    median: float
    low: float
    high: float
    rounds: int
    difference: float
    peak: int | None = None


@dataclass(frozen=True)
class Row:
    """A workload, measured.

    Attributes:
        workload, threads: What was measured, on how many threads.
        sides: By name; those of dense torch begin with `dense`.
        ratios: How many times as fast as the fastest dense side every other side is.
        plan: What `deploy` chose, layer by layer.
        notes: What was left out, and why.
        error: Why there is no ratio; empty if there is one.
    """

    workload: Workload
    threads: int
    sides: Mapping[str, Measured] = field(default_factory=dict)
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    plan: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def baseline(self) -> str:
        """The fastest dense side."""
        return fastest_dense({name: side.median for name, side in self.sides.items()})

    @property
    def best(self) -> str:
        """The fastest other side; empty if there is none."""
        return max(self.ratios, key=lambda name: self.ratios[name].median, default="")

    @property
    def verdict(self) -> str:
        """`aim`, `target`, `missed` or `error`; empty where nothing is required."""
        if self.error:
            return "error"
        target, aim = self.workload.target(self.threads), self.workload.aim
        if target is None or not self.best:
            return ""
        got = self.ratios[self.best].median
        return "aim" if aim is not None and got >= aim else "target" if got >= target else "missed"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with what follows from the numbers."""
        own = asdict(self) | {"workload": self.workload.to_dict()}
        follows = {"baseline": self.baseline, "best": self.best, "verdict": self.verdict}
        return own | follows | {"target": self.workload.target(self.threads), "aim": self.workload.aim}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Row":
        """The inverse of `to_dict`, also after a detour through JSON."""
        return cls(
            workload=Workload.from_dict(data["workload"]),
            threads=data["threads"],
            sides={name: Measured(**side) for name, side in data["sides"].items()},
            ratios={name: Ratio(**ratio) for name, ratio in data["ratios"].items()},
            plan=tuple(data["plan"]),
            notes=tuple(data["notes"]),
            error=data["error"],
        )


def fastest_dense(seconds: Mapping[str, float]) -> str:
    """The name of the fastest dense side; empty if there is none."""
    return min((name for name in seconds if name.startswith("dense")), key=lambda name: seconds[name], default="")


@dataclass(frozen=True)
class Record:
    """All rows of a suite on some number of threads, and everything that is needed to repeat them.

    Attributes:
        suite: Its name.
        about: Command, date, hardware, version of torch, options, and whether the fused kernel was there.
        rows: In the order of the suite.
        slopes: Of a growth suite: by sweep and side, how the time grows.
    """

    suite: str
    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    slopes: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        slopes = {sweep: {name: dict(fit) for name, fit in fits.items()} for sweep, fits in self.slopes.items()}
        return {"suite": self.suite, **self.about, "rows": [row.to_dict() for row in self.rows], "slopes": slopes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Record":
        """The inverse of `to_dict`, also after a detour through JSON."""
        about = {name: value for name, value in data.items() if name not in ("suite", "rows", "slopes")}
        return cls(data["suite"], about, tuple(Row.from_dict(row) for row in data["rows"]), data["slopes"])


def write(record: Record, path: Path) -> None:
    """Write a record whole or not at all."""
    write_json(path, record.to_dict())


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        ConfigError: The file is not one.
    """
    try:
        return Record.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a record of `autosample bench` ({one_line(error)}): measure again") from error
