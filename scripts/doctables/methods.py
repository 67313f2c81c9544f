"""The tables of the pages on single methods."""

import json
from collections.abc import Mapping
from typing import Any

from doctables.records import read, results, source, table

Row = Mapping[str, Any]


def strassen_table() -> str:
    """Sum-product layers and others of the same bytes, with what they multiply and add."""
    folder = results() / "ablation/strassen_cifar10"
    if not (folder / "results.json").exists():
        return "No records yet: `bash scripts/reproduce_strassen.sh DATA_ROOT` makes them."
    found = json.loads((folder / "results.json").read_text())
    counts = {(r["method"], r["size"]): r for r in read("ablation/strassen_cifar10/operations.json")["rows"]}
    lines = [_line(row, counts[row["method"], row["size"]]) for row in found["rows"]]
    heads = "bytes of | method | >test accuracy [%] | >stored [bytes] | >multiplications | >additions | >runs"
    note = "Counts are of one image, without norms and biases (`python scripts/count_operations.py`). "
    return f"{table(heads, lines)}\n\n{note}{source(read('ablation/strassen_cifar10/about.json'))}"


def _line(row: Row, count: Row) -> str:
    size = row["size"].removeprefix("strassen ")
    score = f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f} | {row['stored_bytes']:,}"
    runs = row["seeds"] if row["seeds"] == row["wanted"] else f"{row['seeds']} of {row['wanted']}"
    return f"| {size} | `{row['method']}` | {score} | {count['multiplications']:,} | {count['additions']:,} | {runs} |"
