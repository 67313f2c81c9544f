"""Tables of speed: layers and models against the fastest dense torch, training steps, and other runtimes."""

from collections.abc import Mapping
from typing import Any

from doctables import records
from doctables.records import read_all, source, sources, table

Record = Mapping[str, Any]

_SUITES = ("layers", "models", "training", "timm", "folded")
_MISSING = "No records yet: `bash scripts/reproduce_speed.sh` makes them."
# rows of the README: suite, workload (None: the range over all workloads), description
_BRIEF = (
    ("layers", None, "{} single convolutions, WSNet strides or free offsets"),
    ("models", "soundnet8-s8c8", "SoundNet-8, `wsnet` S8C8, 5 s of sound"),
    ("models", "resnet18", "ResNet-18, `wsnet` S3C2, 224 px"),
    ("training", "soundnet8-s8c8-step", "training step of that SoundNet-8, 16 clips"),
    ("timm", None, "{} timm models, `autosample` at 8x, deployed"),
)


def speed_records() -> list[Record]:
    """Records of `autosample bench`, suite by suite."""
    found = [r for r in read_all("speed") if r["suite"] in _SUITES]
    return sorted(found, key=lambda r: _SUITES.index(r["suite"]))


def speed_highlights() -> str:
    """Five rows: times on one thread, and speed-ups on one and on two."""
    found = {(r["suite"], r["rows"][0]["threads"]): r for r in speed_records() if not r.get("memory_kept")}
    if not found:
        return _MISSING
    lines = []
    for suite, name, told in _BRIEF:
        one, two = (_rows(found[suite, threads], name) for threads in (1, 2))
        times = " | ".join(_milliseconds(one[0])) if name else " | "
        lines.append(f"| {told.format(len(one))} | {times} | {_speedup(one, name)} | {_speedup(two, name)} |")
    heads = "workload | >fastest dense [ms] | >autosample [ms] | >speed-up, 1 thread | >speed-up, 2 threads"
    return f"{table(heads, lines)}\n\n{sources(found.values(), 'autosample bench')}"


def _rows(record: Record, name: str | None) -> list[Record]:
    """The rows of a workload, or of all workloads that have a speed-up."""
    return [row for row in record["rows"] if row["best"] and name in (None, row["workload"]["name"])]


def _speedup(rows: list[Record], name: str | None) -> str:
    """Median with quartiles, or the range of medians over all workloads."""
    ratios = [row["ratios"][row["best"]] for row in rows]
    if name:
        return _quartiles(ratios[0])
    medians = [ratio["median"] for ratio in ratios]
    return f"{min(medians):.2f} to {max(medians):.2f}"


def _quartiles(ratio: Record) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _milliseconds(row: Record) -> tuple[str, str]:
    """Times of the fastest dense variant and of the fastest sampled variant, with their names."""
    base, best = row["sides"][row["baseline"]], row["sides"][row["best"]]
    variant = row["baseline"].removeprefix("dense").strip() or "eager"
    return f"{1e3 * base['median']:.3g} ({variant})", f"{1e3 * best['median']:.3g} ({row['best']})"


def reuse_table() -> str:
    """Speed of layers, models and training steps against the fastest dense torch."""
    found = speed_records()
    if not found:
        return _MISSING
    lines = [_reuse_row(row, record) for record in found for row in record["rows"]]
    heads = (
        "workload | >threads | >fastest dense [ms] | >autosample [ms] | >speed-up (quartiles) | >required | >goal | "
        "met | >peak memory [MB]"
    )
    return f"{table(heads, lines)}\n\n{sources(found, 'autosample bench')}"


def _reuse_row(row: Record, record: Record) -> str:
    special = "" if record["dtype"] == "float32" else f" {record['dtype']}"
    name = f"`{row['workload']['name']}`{special}" + (", memory kept" if record.get("memory_kept") else "")
    if not row["best"]:
        return f"| {name} | {row['threads']} | | | {row['error'] or 'nothing to compare'} | | | **error** | |"
    asked = [f"{row[key]:g}x" if row[key] is not None else "" for key in ("target", "aim")]
    met = {"aim": "yes, and the goal", "target": "yes", "missed": "**no**"}.get(row["verdict"], "")
    peaks = [row["sides"][side]["peak"] for side in (row["baseline"], row["best"])]
    peak = " → ".join(f"{p / 1e6:.1f}" for p in peaks) if None not in peaks else ""
    times, spread = " | ".join(_milliseconds(row)), _quartiles(row["ratios"][row["best"]])
    return f"| {name} | {row['threads']} | {times} | {spread} | {asked[0]} | {asked[1]} | {met} | {peak} |"


def growth_figure() -> str:
    """The picture of how time grows with the size of a layer."""
    path = "results/speed/growth-1t.png"
    if not (records.ROOT / path).exists():
        return _MISSING
    return f"![time of a layer against filters, samples and ratio, with slopes](../{path})"


def steps_table() -> str:
    """Times of training steps relative to dense ones."""
    lines, found = [], read_all("training-step")
    for record in found:
        for r in record["rows"]:
            lines.append(f"| `{r['preset']}` | {record['settings']['threads']} | {_step(r)} |")
    last = found[-1]
    settings = last["settings"]
    what = f"{settings['model']} at ratio {settings['ratio']:g}, batch {settings['batch']}, {settings['size']} px"
    heads = "preset | >threads | >training step, time relative to dense (quartiles)"
    note = f"{what}; converting resnet50 takes {last['convert_resnet50_s']:.2f} s; "
    return f"{table(heads, lines)}\n\n{note}{source(last)}"


def _step(row: Record) -> str:
    return f"{row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f})"


def runtimes_table() -> str:
    """Sizes and times of exported models."""
    found = read_all("runtimes")
    if not found:
        return "No records yet: `python scripts/compare_runtimes.py results/runtimes` makes them."
    lines = []
    for record in found:
        for name, side in record["sides"].items():
            size = "" if side["bytes"] is None else f"{side['bytes']:,}"
            time = "" if side["seconds"] is None else f"{1e3 * side['seconds']:.3g}"
            times = "" if side["faster"] is None else "{:.2f} ({:.2f}–{:.2f})".format(*side["faster"])
            start = f"| `{record['workload']['name']}` | {record['threads']} | {name}"
            lines.append(f"{start} | {size} | {time} | {times} |")
    heads = "model | >threads | variant | >size [bytes] | >latency [ms] | >speed-up over dense ONNX (quartiles)"
    return f"{table(heads, lines)}\n\nonnxruntime {found[0]['onnxruntime']}; {source(found[0])}"


def input_table() -> str:
    """Pictures a second from disk to device, against other loaders."""
    found = read_all("input")
    lines = []
    for record in found:
        for row in record["rows"]:
            ratio = row["speed_up"]
            faster = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else ""
            lines.append(f"| {record['num_workers']} | {row['side']} | {row['median']:.0f} | {faster} |")
    heads = ">workers | loader | >pictures a second | >`autosample` is so many times as fast (quartiles)"
    note = "Drawn pictures of 224 px (`python scripts/make_pictures.py DIR --classes 16 --train 40 --val 4`). "
    return f"{table(heads, lines)}\n\n{note}{' '.join(source(record) for record in found)}"
