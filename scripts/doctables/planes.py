"""Where another method beats `folded` in accuracy, bytes and time at once."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from doctables.accuracy import kept_ablations
from doctables.records import sources, table

Row = Mapping[str, Any]

# sizes are met to within this share
_EQUAL = 1.02


def planes() -> str:
    """A row for each method that is more accurate than `folded`, faster and not larger; a line if there is none."""
    lines, times, sizes = [], [], 0
    for folder in kept_ablations():
        if not (folder / "latency.json").exists():
            continue
        found = json.loads((folder / "results.json").read_text())["rows"]
        record = json.loads((folder / "latency.json").read_text())
        faster = {(row["method"], row["size"]): row["speedup"]["median"] for row in record["rows"]}
        times.append(record)
        for ours in (row for row in found if _is_folded(row["method"]) and (row["method"], row["size"]) in faster):
            sizes += 1
            named = f"[{folder.name}](../results/ablation/{folder.name}/table.md) | {ours['ratio']:.1f}x"
            lines += [f"| {named} | {_cells(row, ours, faster)} |" for row in _better(found, ours, faster)]
    if not sizes:
        return "No records yet: `python scripts/measure_latency.py GRID` measures the times of a grid."
    heads = "grid | >compression | method | >accuracy [%] | >`folded` [%] | >bytes | >faster than dense | >`folded`"
    text = table(heads, lines) if lines else f"None; sizes measured: {sizes}."
    return f"{text}\n\nTimes: {sources(times, 'python scripts/measure_latency.py')}"


def _is_folded(method: str) -> bool:
    """Whether the label is the preset itself, at any number of bits."""
    return method.split(" ")[0] == "folded"


def _better(found: list[Row], ours: Row, faster: Mapping[tuple[str, str], float]) -> Iterator[Row]:
    """The methods that beat a row of `folded` in all three."""
    own = faster[ours["method"], ours["size"]]
    for row in found:
        whole = row["seeds"] == row["wanted"] and not _is_folded(row["method"])
        small = row["stored_bytes"] <= _EQUAL * ours["stored_bytes"]
        quick = faster.get((row["method"], row["size"]), 0.0) > own
        if whole and small and quick and row["accuracy_percent"] > ours["accuracy_percent"]:
            yield row


def _cells(row: Row, ours: Row, faster: Mapping[tuple[str, str], float]) -> str:
    both = " | ".join(f"{r['accuracy_percent']:.2f} ± {r['std_percent']:.2f}" for r in (row, ours))
    times = " | ".join(f"{faster[r['method'], r['size']]:.2f}" for r in (row, ours))
    return f"`{row['method']}` | {both} | {row['stored_bytes'] / ours['stored_bytes']:.2f}x | {times}"
