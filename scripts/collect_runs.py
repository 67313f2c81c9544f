"""A table of finished runs, from the logs of `autosample fit`: `python scripts/collect_runs.py RUNS [--out DIR]`.

Reads `metrics.csv`, `report.json` and `config.yaml` of the newest version of every run below RUNS; with `--out` writes
`runs.json` (one record a run) and `runs.md` (the table) there.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import yaml


def read_run(folder: Path) -> dict[str, Any] | None:
    """The record of a run folder, or `None` where the run has not been tested."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    tested = [float(row["test/acc"]) for row in rows if row.get("test/acc")]
    if not tested:
        return None
    report = json.loads((folder / "report.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    model = config["model"]
    return {
        "run": folder.parent.name,
        "data": config["data"]["class_path"].rsplit(".", 1)[-1],
        "model": model["model"],
        "summary": model["summary"],
        "ratio": model["ratio"],
        "summary_args": model["summary_args"],
        "epochs": config["trainer"]["max_epochs"],
        "seed": config["seed_everything"],
        "accuracy_percent": round(100 * tested[-1], 3),
        "stored_bytes": report["total"]["stored_bytes"],
        "dense_bytes": report["total"]["dense_bytes"],
        "macs": report["total"]["macs"],
        "dense_params": report["total"]["dense_params"],
    }


def table(records: list[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = ["| data | net | sampling | layer ratio | epochs | accuracy % | error % | bytes | smaller |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for r in records:
        asked = r["ratio"] if r["summary"] != "dense" else 1
        shape = f"{asked:g}" if asked else " ".join(f"{k} {v}" for k, v in (r["summary_args"] or {}).items())
        accuracy, smaller = r["accuracy_percent"], r["dense_bytes"] / r["stored_bytes"]
        cells = (r["data"], r["model"], r["summary"], shape, r["epochs"], f"{accuracy:.2f}", f"{100 - accuracy:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + f" | {r['stored_bytes']:,} | {smaller:.1f}x |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    newest = {path.parent.parent: path.parent for path in sorted(args.runs.glob("*/version_*/metrics.csv"))}
    records = [record for folder in newest.values() if (record := read_run(folder))]
    records.sort(key=lambda r: (r["data"], 0 if r["summary"] == "dense" else r["ratio"] or 1, r["accuracy_percent"]))
    print(table(records), end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "runs.json").write_text(json.dumps(records, indent=1) + "\n")
        (args.out / "runs.md").write_text(table(records))


if __name__ == "__main__":
    main()
