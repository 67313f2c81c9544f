"""Fills the tables of README.md and docs/ from results/: `python scripts/update_docs.py [--check]`.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is replaced (a lone first marker gets its partner). With `--check`
nothing is written, and the exit code tells whether anything would change.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

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


_SUITES = ("layers", "models", "training", "timm")
_MANY = {"layers": "single layers", "timm": "nets of timm with `autosample` at 8x"}
_MISSING = "No records yet: `bash scripts/reproduce_speed.sh` makes them."


def speed_records() -> list[dict[str, Any]]:
    """What `autosample bench` measured, suite by suite."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "speed").glob("*.json"))]
    return sorted((r for r in records if r["suite"] in _SUITES), key=lambda r: _SUITES.index(r["suite"]))


def speed_summary() -> str:
    """A line for each model, and one for all layers, or all models of timm, on as many threads."""
    records = [r for r in speed_records() if not r.get("memory_kept")]
    if not records:
        return _MISSING
    lines = [
        "| workload | threads | fastest dense [ms] | autosample [ms] | times as fast |",
        "|---|---:|---:|---:|---:|",
    ]
    for record in records:
        rows = [row for row in record["rows"] if row["best"]]
        if record["suite"] in _MANY:
            ratios = [row["ratios"][row["best"]]["median"] for row in rows]
            times = f"{min(ratios):.2f} to {max(ratios):.2f}"
            lines.append(f"| {len(rows)} {_MANY[record['suite']]} | {rows[0]['threads']} | | | {times} |")
        else:
            lines += [" | ".join(reuse_line(row, record).split(" | ")[:5]) + " |" for row in rows]
    return "\n".join(lines) + "\n\n" + sources(records)


def sources(records: list[dict[str, Any]]) -> str:
    """Where and when the records were made."""
    dates: dict[tuple[str, str], set[str]] = {}
    for record in records:
        dates.setdefault((record["hardware"], record["torch"]), set()).add(record["date"])
    return " ".join(
        told(
            {
                "command": "autosample bench",
                "hardware": where,
                "torch": torch,
                "date": " to ".join(sorted({min(d), max(d)})),
            }
        )
        for (where, torch), d in dates.items()
    )


def reuse_table() -> str:
    """Speed of layers, models and training steps against the fastest dense torch."""
    records = speed_records()
    if not records:
        return _MISSING
    lines = [
        "| workload | threads | fastest dense [ms] | autosample [ms] | times as fast (quartiles) | asked | aim | met | "
        "peak memory [MB] |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    lines += [reuse_line(row, record) for record in records for row in record["rows"]]
    return "\n".join(lines) + "\n\n" + sources(records)


def reuse_line(row: dict[str, Any], record: dict[str, Any]) -> str:
    """A line for a row of a record."""
    special = "" if record["dtype"] == "float32" else f" {record['dtype']}"
    name = f"`{row['workload']['name']}`{special}" + (", memory kept" if record.get("memory_kept") else "")
    if not row["best"]:
        return f"| {name} | {row['threads']} | | | {row['error'] or 'nothing to compare'} | | | **error** | |"
    base, best, ratio = (row["sides"][row["baseline"]], row["sides"][row["best"]], row["ratios"][row["best"]])
    variant = row["baseline"].removeprefix("dense").strip() or "eager"
    asked = [f"{row[key]:g}x" if row[key] is not None else "" for key in ("target", "aim")]
    met = {"aim": "yes, and the aim", "target": "yes", "missed": "**no**"}.get(row["verdict"], "")
    times = f"{1e3 * base['median']:.3g} ({variant}) | {1e3 * best['median']:.3g} ({row['best']})"
    spread = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
    peaks = [side["peak"] for side in (base, best)]
    peak = " → ".join(f"{p / 1e6:.1f}" for p in peaks) if None not in peaks else ""
    return f"| {name} | {row['threads']} | {times} | {spread} | {asked[0]} | {asked[1]} | {met} | {peak} |"


def steps_table() -> str:
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


def runtimes_table() -> str:
    """Sizes and times of exported models."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "runtimes").glob("*.json"))]
    if not records:
        return "No records yet: `python scripts/compare_runtimes.py results/runtimes` makes them."
    lines = [
        "| model | threads | side | bytes | a call [ms] | times as fast as dense ONNX (quartiles) |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for record in records:
        for name, side in record["sides"].items():
            size = "" if side["bytes"] is None else f"{side['bytes']:,}"
            time = "" if side["seconds"] is None else f"{1e3 * side['seconds']:.3g}"
            times = "" if side["faster"] is None else "{:.2f} ({:.2f}–{:.2f})".format(*side["faster"])
            start = f"| `{record['workload']['name']}` | {record['threads']} | {name}"
            lines.append(f"{start} | {size} | {time} | {times} |")
    about = records[0]
    return "\n".join(lines) + f"\n\nonnxruntime {about['onnxruntime']}; " + told(about)


def quantised_table() -> str:
    """What few bits cost in accuracy, after training and with fine-tuning."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / "quantisation").glob("*.json"))]
    if not records:
        return "No records yet: `python scripts/measure_quantisation.py DATA_ROOT results/quantisation` makes them."
    lines = [
        "| data | net | seeds | levels | float32 % | points lost after training | with fine-tuning | bytes |",
        "|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for net in dict.fromkeys(r["net"] for r in records):
        runs = [r for r in records if r["net"] == net]
        for n, row in enumerate(runs[0]["rows"]):
            lost = [100 * (r["float32"] - r["rows"][n]["after"]) for r in runs]
            fine = [100 * (r["float32_tuned"] - r["rows"][n]["tuned"]) for r in runs]
            bits = f"{row['bits']} bits, {'codebook' if row['method'] == 'codebook' else 'even'}"
            base = f"{100 * mean(r['float32'] for r in runs):.2f}"
            sizes = f"{runs[0]['bytes']:,} → {row['bytes']:,}"
            start = f"| {net} | `{runs[0]['settings']['model']}` | {len(runs)} | {bits} | {base}"
            lines.append(f"{start} | {spread(lost)} | {spread(fine)} | {sizes} |")
    return (
        "\n".join(lines)
        + "\n\nPoints, mean and range against the float32 net after the same training; below zero is a gain. "
        + told(records[0])
    )


def spread(values: list[float]) -> str:
    """Mean and range, as text."""
    return f"{mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"


def reuse_figure() -> str:
    """How the time grows with the size of a layer."""
    path = "results/speed/growth-1t.png"
    if not (ROOT / path).exists():
        return _MISSING
    return f"![time of a layer against filters, samples and ratio, with slopes](../{path})"


_SIDES = ("wsnet", "random", "random root", "autosample")  # rules with a column of their own


def summary() -> str:
    """A line for each size of every ablation that was kept: the rules at equal bytes."""
    lines = [
        "| data | net | smaller | bits a number | dense | `wsnet` | `random` | `random`, root shares | best other | "
        "`autosample` | over `wsnet` (p) | over `random` (p) | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for folder in kept_ablations():
        results = json.loads((folder / "results.json").read_text())
        sizes = dict.fromkeys(row["size"] for row in results["rows"] if row["size"])
        lines += [summary_line(results, size, folder) for size in sizes]
    return "\n".join(lines)


def summary_line(results: dict[str, Any], size: str, folder: Path) -> str:
    """Test accuracies of the rules at one size, and what `autosample` is ahead of two of them."""
    rules = {rule_of(r["method"]): r for r in results["rows"] if r["size"] == size or r["method"] == "dense"}
    tests = {rule_of(t["against"]): t for t in results["tests"] if t["size"] == size}
    ours = rules["autosample"]
    whole = {name: row["accuracy_percent"] for name, row in rules.items() if row["seeds"] == row["wanted"]}
    others = {name: score for name, score in whole.items() if name not in (*_SIDES, "dense")}
    best = max(others, key=lambda name: others[name], default=None)
    bits = re.search(r"(\d+) bits", ours["method"])
    cells = [
        f"[{ours['data']}](results/ablation/{folder.name}/table.md)",
        f"`{ours['model']}`",
        f"{ours['ratio']:.1f}x",
        bits.group(1) if bits else "32",
        *(accuracy(rules.get(name)) for name in ("dense", *_SIDES[:3])),
        f"{others[best]:.2f} (`{best}`)" if best else "",
        accuracy(ours),
        *(ahead(tests.get(name)) for name in ("wsnet", "random")),
        str(ours["seeds"]),
    ]
    return f"| {' | '.join(cells)} |"


def rule_of(method: str) -> str:
    """A label without the bits."""
    return re.sub(r" \d+ bits", "", method)


def accuracy(row: dict[str, Any] | None) -> str:
    """Mean and spread, and how many runs where some are missing."""
    if row is None:
        return ""
    missing = "" if row["seeds"] == row["wanted"] else f" ({row['seeds']} of {row['wanted']} runs)"
    return f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f}{missing}"


def ahead(test: dict[str, Any] | None) -> str:
    """Percentage points and p of the paired t-test."""
    if test is None:
        return ""
    p = "incomplete" if test["t_p"] is None else f"{test['t_p']:.2g}"
    return f"{test['difference']:+.2f} ({p})"


def kept_ablations() -> list[Path]:
    """The folders of the ablations that were kept."""
    return sorted((RESULTS / "ablation").glob("*"))


def ablations() -> str:
    """Every ablation that was kept: its title, tables and picture."""
    parts = []
    for folder in kept_ablations():
        title, methods, *tests = (folder / "table.md").read_text().strip().split("\n\n")
        about = told(json.loads((folder / "about.json").read_text()))
        picture = f"![accuracy against stored bytes](../results/ablation/{folder.name}/accuracy.png)"
        parts += [f"## {title}", methods, *tests, about, picture]
    return "\n\n".join(parts) or "No records yet: `bash scripts/reproduce_mnist.sh DATA_ROOT` and the like make them."


def example() -> str:
    """The ten lines, run now, with what they printed."""
    code = (ROOT / "scripts" / "example.py").read_text()
    done = subprocess.run([sys.executable, ROOT / "scripts" / "example.py"], capture_output=True, text=True, check=True)
    return f"```python\n{code.rstrip()}\n```\n\nprints\n\n```\n{done.stdout.rstrip()}\n```"


PARTS = {
    "README.md": {
        "quickstart:figure": quickstart_figure,
        "quickstart:table": quickstart_table,
        "example": example,
        "summary": summary,
        "speed": speed_summary,
        "runtimes:table": runtimes_table,
        "quantised:table": quantised_table,
    },
    "docs/ablations.md": {"ablations": ablations},
    "docs/speed.md": {"reuse": reuse_table, "growth": reuse_figure, "steps": steps_table},
}


def filled(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A document with its parts made anew."""
    for name, make in parts.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        head, _, rest = text.partition(start)
        tail = rest.partition(end)[2] if end in rest else rest
        text = f"{head}{start}\n{make()}\n{end}{tail}"
    return text


def main() -> int:
    stale = 0
    for name, parts in PARTS.items():
        path = ROOT / name
        before = path.read_text()
        text = filled(before, parts)
        stale += text != before
        if "--check" not in sys.argv:
            path.write_text(text)
    return int(stale > 0 and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
