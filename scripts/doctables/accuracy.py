"""Tables of accuracy: the quickstart, methods at equal bytes, and quantised models."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from doctables.records import read, read_all, results, source, sources, table

Row = Mapping[str, Any]

# methods that have their own column, beside `dense` and `autosample`
_COLUMNS = ("wsnet", "random", "random root", "folded")
# `learned` is `autosample` with offsets learned in convolutions too, so it is not another method
_OURS = ("autosample", "learned")


def quickstart_table() -> str:
    """Mean and standard deviation of each method in the quickstart."""
    rows = read("quickstart/results.json")["rows"]
    timed = all(r.get("latency_ms") for r in rows)  # results of 0.2.0 have no times
    lines = []
    for r in rows:
        accuracy = f"{r['accuracy_percent']:.2f} ± {r['std_percent']:.2f}"
        size = f"{r['stored_bytes']:,} | {r['ratio']:.1f}x"
        if timed:
            size += f" | {r['latency_ms']:.3f} | {rows[0]['latency_ms'] / r['latency_ms']:.2f}x"
        lines.append(f"| `{r['method']}` | {accuracy} | {size} | {r['macs']:,} | {r['seconds']:.1f} |")
    times = " | >deployed [ms] | >faster" if timed else ""
    heads = f"method | >accuracy [%] | >stored [bytes] | >compression{times} | >MACs | >seconds per run"
    note = f"Mean ± standard deviation over {rows[0]['seeds']} seeds; "
    return f"{table(heads, lines)}\n\n{note}{source(read('quickstart/about.json'))}"


def quickstart_line() -> str:
    """Accuracy, bytes and time of `folded` in the quickstart, beside those of the dense net."""
    rows = {row["method"]: row for row in read("quickstart/results.json")["rows"]}
    ours, dense = rows["folded"], rows["dense"]
    return (
        f"The quickstart's `folded` net has {ours['accuracy_percent']:.2f} % accuracy (dense: "
        f"{dense['accuracy_percent']:.2f} %), {ours['stored_bytes']:,} bytes ({dense['stored_bytes']:,}) and takes "
        f"{ours['latency_ms']:.2f} ms ({dense['latency_ms']:.2f} ms); {source(read('quickstart/about.json'))}"
    )


def quickstart_figure() -> str:
    """The picture that the quickstart drew."""
    return "![accuracy against stored bytes](../results/quickstart/accuracy.png)"


def kept_ablations() -> list[Path]:
    """The folders of the published ablations."""
    return sorted((results() / "ablation").glob("*"))


def compared() -> list[Path]:
    """Those that compare `autosample` with others; the ablation of the README's picture repeats runs of another one."""
    return [folder for folder in kept_ablations() if folder.name != "overview" and _has_flagship(folder)]


def _has_flagship(folder: Path) -> bool:
    found = json.loads((folder / "results.json").read_text())
    return any(_method(row["method"]) == "autosample" for row in found["rows"])


def summary() -> str:
    """Methods at equal bytes: a row for each size of each published ablation."""
    lines = [_summary_row(found, size, name) for name, found, size in _sizes()]
    heads = (
        "data | net | >compression | >bits per number | >dense | >`wsnet` | >`random` | >`random`, root shares | "
        ">`folded` | >best other | >`autosample` | >gain over `random` (p) | >gain over `folded` (p) | >runs"
    )
    return table(heads, lines)


def highlights() -> str:
    """A row for each net: methods at its highest compression, in the highest precision that was run at it."""
    best: dict[tuple[str, str], tuple[int, int, str, str]] = {}
    for name, found, size in _sizes():
        ours = _methods(found, size)["autosample"]
        key, rank = (ours["data"], ours["model"]), (round(ours["ratio"]), _bits(ours))
        if key not in best or rank > best[key][:2]:
            best[key] = (*rank, name, size)
    chosen = sorted((name, size) for *_, name, size in best.values())
    lines = [_highlight(read(f"ablation/{name}/results.json"), size, name) for name, size in chosen]
    heads = "data, net | >compression | >dense | >`wsnet` | >`random` | >`folded` | >best other | >`autosample` | >runs"
    abouts = [read(f"ablation/{name}/about.json") for name, _ in chosen]
    command = "autosample ablate ablation/{" + ",".join(name for name, _ in chosen) + "}"
    note = "Test accuracy [%], mean ± standard deviation over runs (seeds, or folds of ESC-10); "
    return f"{table(heads, lines)}\n\n{note}{sources(abouts, command)}"


def _sizes() -> list[tuple[str, dict[str, Any], str]]:
    """Folder, results and size of all comparisons."""
    found = [(folder.name, read(f"ablation/{folder.name}/results.json")) for folder in compared()]
    return [
        (name, made, size)
        for name, made in found
        for size in dict.fromkeys(r["size"] for r in made["rows"] if r["size"])
    ]


def _methods(found: Mapping[str, Any], size: str) -> dict[str, Row]:
    """The rows of one size and of the dense net, by method."""
    return {_method(r["method"]): r for r in found["rows"] if r["size"] == size or r["method"] == "dense"}


def _summary_row(found: Mapping[str, Any], size: str, folder: str) -> str:
    rows = _methods(found, size)
    # tables from before 2026-11-30 have tests of `autosample` only, and do not say so
    ours_first = [
        t for t in found["tests"] if t["size"] == size and _method(t.get("method", "autosample")) == "autosample"
    ]
    tests = {_method(t["against"]): t for t in ours_first}
    ours = rows["autosample"]
    cells = [
        f"[{ours['data']}](../results/ablation/{folder}/table.md)",
        f"`{ours['model']}`",
        f"{ours['ratio']:.1f}x",
        str(_bits(ours)),
        *(_accuracy(rows.get(name)) for name in ("dense", *_COLUMNS)),
        _best(rows, (*_COLUMNS, "dense", "autosample")),
        _accuracy(ours),
        *(_gain(tests.get(name)) for name in ("random", "folded")),
        str(ours["seeds"]),
    ]
    return f"| {' | '.join(cells)} |"


def _highlight(found: Mapping[str, Any], size: str, folder: str) -> str:
    rows = _methods(found, size)
    ours, bits = rows["autosample"], _bits(rows["autosample"])
    precision = "" if bits == 32 else f", {bits} bits"
    cells = [
        f"[{ours['data']}](results/ablation/{folder}/table.md), `{ours['model']}`{precision}",
        f"{ours['ratio']:.0f}x",
        *(_accuracy(rows.get(name)) for name in ("dense", "wsnet", "random", "folded")),
        _best(rows, ("dense", "wsnet", "random", "folded", *_OURS)),
        _accuracy(ours),
        str(ours["seeds"]),
    ]
    return f"| {' | '.join(cells)} |"


def _best(rows: Mapping[str, Row], without: tuple[str, ...]) -> str:
    """The best method without its own column, among those with all their runs."""
    whole = {name: r["accuracy_percent"] for name, r in rows.items() if r["seeds"] == r["wanted"]}
    others = {name: score for name, score in whole.items() if name not in without}
    best = max(others, key=lambda name: others[name], default=None)
    return f"{others[best]:.2f} (`{best}`)" if best else ""


def _method(label: str) -> str:
    """A label without its bits."""
    return re.sub(r" \d+ bits", "", label)


def _bits(row: Row) -> int:
    """Bits per stored number."""
    bits = re.search(r"(\d+) bits", row["method"])
    return int(bits.group(1)) if bits else 32


def _accuracy(row: Row | None) -> str:
    """Mean and standard deviation, and the number of runs if some are missing."""
    if row is None:
        return ""
    missing = "" if row["seeds"] == row["wanted"] else f" ({row['seeds']} of {row['wanted']} runs)"
    return f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f}{missing}"


def _gain(test: Row | None) -> str:
    """Gain in percentage points, and p of the paired t-test."""
    if test is None:
        return ""
    p = "incomplete" if test["t_p"] is None else f"{test['t_p']:.2g}"
    return f"{test['difference']:+.2f} ({p})"


def ablations() -> str:
    """All published ablations: title, tables and picture of each."""
    parts = []
    for folder in kept_ablations():
        title, methods, *tests = (folder / "table.md").read_text().strip().split("\n\n")
        about = source(json.loads((folder / "about.json").read_text()))
        parts += [f"## {title}", methods, *tests, about, *_latencies(folder)]
    return "\n\n".join(parts) or "No records yet: `bash scripts/reproduce_mnist.sh DATA_ROOT` and others make them."


def _latencies(folder: Path) -> list[str]:
    """Times of the nets of an ablation, if they were measured, and a picture: with times if there are any."""
    named = f"../results/ablation/{folder.name}"
    if not (folder / "latency.json").exists():
        return [f"![accuracy against stored bytes]({named}/accuracy.png)"]
    record = json.loads((folder / "latency.json").read_text())
    picture = f"![accuracy against stored bytes and against time]({named}/overview.png)"
    if not all("onnxruntime" in row for row in record["rows"]):  # measured before 2026-11-30
        return [picture]
    lines = [
        f"| {row['size']} | `{row['method']}` | {_time(row)} | {_time(row['onnxruntime'])} |" for row in record["rows"]
    ]
    heads = "size | method | >deployed [ms] | >faster than dense | >onnxruntime [ms] | >faster than dense"
    note = f"Batch 1, float32, {record['threads']} thread; ratios with quartiles, against the dense net in turn; "
    return [table(heads, lines), f"{note}{source(record)}", picture]


def _time(row: Row) -> str:
    """Median time, and the ratio to the dense net's."""
    faster = row["speedup"]
    return f"{row['median']:.3g} | {faster['median']:.2f} ({faster['low']:.2f}–{faster['high']:.2f})"


def quantised_table() -> str:
    """Accuracy lost with few bits, after training and with fine-tuning."""
    records = read_all("quantisation")
    if not records:
        return "No records yet: `python scripts/measure_quantisation.py DATA_ROOT results/quantisation` makes them."
    lines = []
    for net in dict.fromkeys(r["net"] for r in records):
        runs = [r for r in records if r["net"] == net]
        for n, row in enumerate(runs[0]["rows"]):
            lost = [100 * (r["float32"] - r["rows"][n]["after"]) for r in runs]
            fine = [100 * (r["float32_tuned"] - r["rows"][n]["tuned"]) for r in runs]
            levels = f"{row['bits']} bits, {'codebook' if row['method'] == 'codebook' else 'linear'}"
            base = f"{100 * mean(r['float32'] for r in runs):.2f}"
            sizes = f"{runs[0]['bytes']:,} → {row['bytes']:,}"
            start = f"| {net} | `{runs[0]['settings']['model']}` | {len(runs)} | {levels} | {base}"
            known = all("renewed" in r["rows"][n] for r in runs)  # records before 2026-11-30, and nets without norms
            norms = _spread([100 * (r["float32"] - r["rows"][n]["renewed"]) for r in runs]) if known else ""
            lines.append(f"{start} | {_spread(lost)} | {norms} | {_spread(fine)} | {sizes} |")
    heads = (
        "data | net | >seeds | levels | >float32 [%] | >points lost after training | >with renewed norms | "
        ">with fine-tuning | "
        ">stored [bytes]"
    )
    note = "Points: mean and range, against the float32 net after the same training; below zero is a gain. "
    return f"{table(heads, lines)}\n\n{note}{sources(records, records[0]['command'])}"


def from_pretrained_table() -> str:
    """Accuracy of nets that start from trained weights."""
    parts = [_from_pretrained(record) for record in read_all("from_pretrained")]
    return "\n\n".join(parts) or "No records yet: `python scripts/measure_from_pretrained.py DATA_ROOT` makes them."


def _from_pretrained(record: dict[str, Any]) -> str:
    rows = record["rows"]
    dense = [row["accuracy"] for row in rows if row["method"] == "dense"]
    lines, epochs = [], sorted({row["epochs"] for row in rows if row.get("start") == "recipe"})
    # renewed statistics of norms, in records since 2026-11-30 of nets that have some
    renewed = any(row.get("start") == "renewed" for row in rows)
    arms = [("recipe", 0), *([("renewed", 0)] if renewed else []), *(("recipe", n) for n in epochs[1:])]
    for ratio in dict.fromkeys(row["ratio"] for row in rows if "ratio" in row):
        own = [row for row in rows if row.get("ratio") == ratio]
        cells = [[r["accuracy"] for r in own if (r["start"], r["epochs"]) == arm] for arm in arms]
        cells.append([r["accuracy"] for r in own if r["start"] == "random start"])
        whole = mean(row["net_ratio"] for row in own)
        lines.append(f"| {ratio} | {whole:.1f} | {' | '.join(_range(cell) for cell in cells)} |")
    after = [f">{n} epoch{'s' * (n > 1)}" for n in epochs[1:]]
    converted = [">converted", *([">norms renewed"] if renewed else [])]
    heads = " | ".join([">ratio", ">whole net", *converted, *after, ">random start"])
    first = f"`{record['net']}`, dense {_range(dense)}, {len(dense)} seeds:"
    return f"{first}\n\n{table(heads, lines)}\n\n{source(record)}"


def _range(values: list[float]) -> str:
    return f"{mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _spread(values: list[float]) -> str:
    """Mean and range, as text."""
    return f"{mean(values):+.2f} ({min(values):+.2f} to {max(values):+.2f})"
