"""Copies the results of an ablation or the quickstart for the docs: `python scripts/publish.py OUT [OPTIONS]`.

OUT is the output folder of `autosample ablate` or `autosample quickstart`; OPTIONS are the options of that run. The
table, its records and the pictures go to results/ablation/NAME, results/research/NAME (research grids) or
results/quickstart, with the command, and with the machines and dates in the records. Then run
`python scripts/update_docs.py`.

`python scripts/publish.py --restore NAME OUT` copies the records back to a folder. `autosample ablate … --out OUT` then
trains only what is new or changed in the grid.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from autosample.experiments.identity import id_of, present
from autosample.experiments.record import Record, records_in, write_record
from autosample.system.configs import names
from autosample.system.files import write_text

ROOT = Path(__file__).resolve().parent.parent


def place_of(name: str) -> tuple[Path, str]:
    """The folder of a grid's results, and the command that makes them."""
    if name == "quickstart":
        return ROOT / "results/quickstart", "bash scripts/quickstart.sh"
    kind = "research" if f"research/{name}" in names("research") else "ablation"
    return ROOT / "results" / kind / name, f"autosample ablate {kind}/{name}"


def publish(out: Path, options: str) -> None:
    """Copy the table, the pictures, and the records of the table."""
    results = json.loads((out / "results.json").read_text())
    folder, command = place_of(results["name"])
    folder.mkdir(parents=True, exist_ok=True)
    windows = out.glob("windows-*.png") if results["name"] == "quickstart" else ()
    for kept in (*(out / name for name in ("table.md", "results.json", "accuracy.png")), *windows):
        shutil.copy(kept, folder / kept.name)
    # find records by identity: files of older versions have other names
    found = {id_of(record.cell): asdict(record) for _, record in records_in(out / "records")}
    names = [record["name"] for record in results["records"]]
    records = [found[name.rpartition("-")[2]] for name in names]
    lines = [json.dumps({"name": name, **record}) for name, record in zip(names, records, strict=True)]
    write_text(folder / "records.jsonl", "\n".join([*lines, *history(folder / "records.jsonl")]) + "\n")
    dates = sorted(record["machine"]["date"] for record in records)
    about = {
        "command": f"{command} {options}".strip(),
        "hardware": " or ".join(unique(record["machine"]["hardware"] for record in records)),
        "torch": " or ".join(unique(record["torch"] for record in records)),
        "date": " to ".join(unique([dates[0], dates[-1]])),
    }
    write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")


def history(path: Path) -> list[str]:
    """Lines of runs that used a removed feature. They are kept, although no grid lists them."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if present(json.loads(line)["cell"]) is None]


def restore(name: str, out: Path) -> None:
    """Copy the kept records to a folder. Records that the grid no longer lists do no harm there."""
    for line in (place_of(name)[0] / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        write_record(out / "records" / f"{record.pop('name')}.json", Record(**record))


def unique(values: Iterable[str]) -> list[str]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("options", nargs="*", help="options of the run, in one word: '--threads 1'")
    parser.add_argument("--restore", metavar="NAME", help="copy the kept records of this grid to OUT")
    args = parser.parse_args()
    needed = place_of(args.restore)[0] / "records.jsonl" if args.restore else args.out / "results.json"
    if not needed.exists():
        hint = "its records were not kept" if args.restore else "call autosample ablate … --collect first"
        parser.error(f"{needed} must exist: {hint}")
    if args.restore:
        restore(args.restore, args.out)
    else:
        publish(args.out, " ".join(args.options))


if __name__ == "__main__":
    main()
