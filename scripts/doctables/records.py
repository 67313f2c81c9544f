"""Reading records in results/, and the line below each table that says how it was measured."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def results() -> Path:
    """The folder of all records."""
    return ROOT / "results"


def read(path: str) -> Any:
    """A JSON record in results/."""
    return json.loads((results() / path).read_text())


def read_all(folder: str) -> list[dict[str, Any]]:
    """All JSON records of a folder in results/, sorted by name."""
    return [json.loads(path.read_text()) for path in sorted((results() / folder).glob("*.json"))]


def source(about: Mapping[str, Any]) -> str:
    """Command, hardware and date of a record."""
    return f"`{present(about['command'])}`, {about['hardware']}, torch {about['torch']}, {about['date']}."


def sources(records: Iterable[Mapping[str, Any]], command: str) -> str:
    """The same for several records of one command: a sentence for each machine, with its dates."""
    dates: dict[tuple[str, str], list[str]] = {}
    for record in records:
        found = re.findall(r"\d{4}-\d\d-\d\d", record["date"])
        dates.setdefault((record["hardware"], record["torch"]), []).extend(found)
    spans = {machine: " to ".join(sorted({min(found), max(found)})) for machine, found in dates.items()}
    return " ".join(
        source({"command": command, "hardware": hardware, "torch": torch, "date": span})
        for (hardware, torch), span in spans.items()
    )


def present(command: str) -> str:
    """A recorded command in its present form: configs are given by name."""
    return re.sub(r"(?:autosample/)?configs/([\w/-]+)\.yaml", r"\1", command)


def table(heads: str, lines: Iterable[str]) -> str:
    """A Markdown table.

    Args:
        heads: Names of the columns, separated by `|`; a column whose name starts with `>` is right-aligned.
        lines: Rows in Markdown.
    """
    names = [name.strip() for name in heads.split("|")]
    rule = "|".join("---:" if name.startswith(">") else "---" for name in names)
    return "\n".join([f"| {' | '.join(name.lstrip('>') for name in names)} |", f"|{rule}|", *lines])
