"""Measures training steps of converted models against dense ones, as ratios, in one process.

Dense and converted steps alternate, so other load on the machine affects both. Medians and quartiles are over
`--steps` pairs. The conversion is timed too. Writes one JSON record with everything needed to repeat it.

    python scripts/bench_training.py --threads 1 --out results/training-step
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import autosample
from autosample.system.machine import hardware
from autosample.system.timing import ratio, time_in_turn


def make_step(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One step of SGD with momentum, from zeroed gradients to updated weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call [s]."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(dense: Callable[[], None], other: Callable[[], None], steps: int) -> dict[str, float]:
    """Median and quartiles of the ratio other / dense, over alternating pairs after two warm-up pairs."""
    base, taken = time_in_turn([dense, other], rounds=steps, budget=math.inf)
    spread = ratio(taken, base)
    return {
        "ratio": spread.median,
        "low": spread.low,
        "high": spread.high,
        "dense_ms": 1e3 * base.median,
        "ms": 1e3 * taken.median,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--ratio", type=float, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--presets", nargs="*", default=[p for p in autosample.PRESETS if p != "dense"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    x, y = torch.randn(args.batch, 3, args.size, args.size), torch.randint(0, 10, (args.batch,))
    dense = make_step(timm.create_model(args.model, num_classes=10), x, y)
    rows = []
    for preset in track(args.presets, description="presets", console=Console(stderr=True)):
        model = timm.create_model(args.model, num_classes=10)
        autosample.convert_(model, preset, ratio=args.ratio)
        rows.append({"preset": preset, **compare(dense, make_step(model, x, y), args.steps)})
    big = timm.create_model("resnet50")
    record = {
        "command": f"python scripts/bench_training.py --threads {args.threads}",
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": torch.__version__,
        "convert_resnet50_s": seconds(lambda: autosample.convert_(big, "autosample", ratio=8)),
        "rows": rows,
    }
    table = Table(title=f"{args.model}, batch {args.batch}, {args.size} px, {args.threads} threads: step against dense")
    for head in ("preset", "ratio", "quartiles", "dense [ms]", "converted [ms]"):
        table.add_column(head, justify="left" if head == "preset" else "right")
    for r in rows:
        spread = f"{r['low']:.2f}-{r['high']:.2f}"
        table.add_row(r["preset"], f"{r['ratio']:.3f}", spread, f"{r['dense_ms']:.0f}", f"{r['ms']:.0f}")
    Console().print(table)
    print(f"converting resnet50: {record['convert_resnet50_s']:.2f} s")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{args.model}-{args.threads}t.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
