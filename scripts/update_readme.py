"""Fills the README's tables from the records under results/: `python scripts/update_readme.py [--check]`.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is replaced (a lone first marker gets its partner). With `--check`
nothing is written, and the exit code tells whether anything would change.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from collect_runs import table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def read(path: str) -> Any:
    """A JSON record under results/."""
    return json.loads((RESULTS / path).read_text())


def told(about: dict[str, Any]) -> str:
    """Command, hardware and date of a record."""
    return f"`{about['command']}`, {about['hardware']}, torch {about['torch']}, {about['date']}."


def quickstart_table() -> str:
    """Mean and spread per method."""
    rows = read("quickstart/results.json")["rows"]
    lines = [
        "| method | accuracy % | stored bytes | smaller | MACs | seconds a run |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        accuracy = f"{r['accuracy_percent']:.2f} ± {r['std_percent']:.2f}"
        size = f"{r['stored_bytes']:,} | {r['ratio']:.1f}x | {r['macs']:,}"
        lines.append(f"| `{r['method']}` | {accuracy} | {size} | {r['seconds']:.1f} |")
    return (
        "\n".join(lines)
        + f"\n\nMean ± standard deviation over {rows[0]['seeds']} seeds; "
        + told(read("quickstart/about.json"))
    )


def quickstart_figure() -> str:
    """The picture that the quickstart drew."""
    return "![accuracy against stored bytes](results/quickstart/accuracy.png)"


def real_table() -> str:
    """Runs on real data."""
    return (
        table(read("real/runs.json"))
        + "\nOne seed each: differences of a few tenths are noise. "
        + told(read("real/about.json"))
    )


def speed_table() -> str:
    """Training steps against dense."""
    lines = ["| training step against dense | threads | ratio of medians (quartiles) |", "|---|---:|---:|"]
    for path in sorted((RESULTS / "training-step").glob("*.json")):
        record = json.loads(path.read_text())
        for r in record["rows"]:
            spread = f"{r['ratio']:.2f} ({r['low']:.2f}–{r['high']:.2f})"
            lines.append(f"| `{r['preset']}` | {record['settings']['threads']} | {spread} |")
    settings = record["settings"]
    what = f"{settings['model']} at ratio {settings['ratio']:g}, batch {settings['batch']}, {settings['size']} px"
    return (
        "\n".join(lines)
        + f"\n\n{what}; converting resnet50 takes {record['convert_resnet50_s']:.2f} s; "
        + told(record)
    )


def example() -> str:
    """The ten lines, run now, with what they printed."""
    code = (ROOT / "scripts" / "example.py").read_text()
    done = subprocess.run([sys.executable, ROOT / "scripts" / "example.py"], capture_output=True, text=True, check=True)
    return f"```python\n{code.rstrip()}\n```\n\nprints\n\n```\n{done.stdout.rstrip()}\n```"


PARTS = {
    "quickstart:figure": quickstart_figure,
    "quickstart:table": quickstart_table,
    "example": example,
    "real:table": real_table,
    "speed:table": speed_table,
}


def main() -> int:
    path = ROOT / "README.md"
    before = text = path.read_text()
    for name, make in PARTS.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, _, rest = text.partition(start)
        tail = rest.partition(end)[2] if end in rest else rest
        text = f"{head}{start}\n{make()}\n{end}{tail}"
    if "--check" in sys.argv:
        return int(text != before)
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
