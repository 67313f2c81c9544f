"""The result of a measurement: rows with verdicts, and one JSON record per suite and number of threads."""

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
        rounds: Number of calls in these.
        difference: Largest difference from the outputs of dense eager torch, relative to the largest of these.
        peak: Peak memory, with weights and outputs [bytes], or `None` if it was not measured.
    """

    median: float
    low: float
    high: float
    rounds: int
    difference: float
    peak: int | None = None


@dataclass(frozen=True)
class Row:
    """A measured workload.

    Attributes:
        workload, threads: The workload and the number of threads.
        sides: Results by side; names of dense torch begin with `dense`.
        ratios: Speed-up of each other side over the fastest dense side.
        plan: Plan that `deploy` chose for each layer.
        notes: Sides that were left out, with the reason.
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
        """`aim`, `target`, `missed` or `error`; empty if no speed-up is required."""
        if self.error:
            return "error"
        target, aim = self.workload.target(self.threads), self.workload.aim
        if target is None or not self.best:
            return ""
        got = self.ratios[self.best].median
        return "aim" if aim is not None and got >= aim else "target" if got >= target else "missed"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, including values computed from the numbers."""
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
    """All rows of a suite on one number of threads, with everything needed to repeat them.

    Attributes:
        suite: Name of the suite.
        about: Command, date, hardware, version of torch, options, and whether the fused kernel was available.
        rows: Rows in the order of the suite.
        slopes: For a growth suite, how time grows, by sweep and side.
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
    """Write a record atomically."""
    write_json(path, record.to_dict())


def read(path: Path) -> Record:
    """Read a record.

    Raises:
        ConfigError: The file is not a record.
    """
    try:
        return Record.from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a record of `autosample bench` ({one_line(error)}): measure again") from error
