"""Measures int8 arithmetic in onnxruntime: `python scripts/measure_int8.py [OUT] [--model NAME] [--presets NAME…]`.

Times the files of one net in turn, on one thread and at batch 1: dense and converted, in float32 and in int8. Weights
are not trained and inputs are random, because their values do not change the time; errors are those of such a net. The
record of sizes, errors and times goes to OUT/MODEL-int8.json. Run it on an idle machine.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from torch import Tensor, nn

import autosample
from autosample.export import onnx_runner
from autosample.models import create
from autosample.system.machine import hardware
from autosample.system.timing import ratio, time_in_turn


def made(name: str, preset: str, size: float) -> nn.Module:
    """A net, converted unless the preset is `dense`."""
    torch.manual_seed(0)
    net = timm.create_model(name) if timm.is_model(name) else create(name, num_classes=10)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # timm's start with zeros: their layers would store nothing
    if preset != "dense":
        autosample.convert_(net, preset, ratio=size)
        autosample.harden_(net)
    return net.eval()


def written(net: nn.Module, label: str, folder: Path, x: Tensor, data: list[Tensor], dense: bool) -> dict[str, Any]:
    """Files of a net in float32 and in int8, with what is known of them."""
    rows = {}
    for kind, calibrate in (("float32", None), ("int8", data)):
        path = folder / f"{label}-{kind}.onnx"
        done = autosample.export_onnx(net, path, x, calibrate=calibrate, dense=dense)
        near = {} if done.fidelity is None else asdict(done.fidelity)
        rows[f"{label} {kind}"] = {"path": path, "bytes": done.bytes, "forms": done.forms, "fidelity": near}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/int8"))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--presets", nargs="+", default=["wsnet", "random"])
    parser.add_argument("--ratio", type=float, default=8.0)
    parser.add_argument("--input", nargs="+", type=int, default=[3, 224, 224])
    parser.add_argument("--rounds", type=int, default=101)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x, data = torch.randn(1, *args.input), list(torch.randn(32, *args.input).split(8))
    with tempfile.TemporaryDirectory() as name:
        rows: dict[str, dict[str, Any]] = {}
        for preset in ("dense", *args.presets):
            net = made(args.model, preset, args.ratio)
            rows |= written(net, preset, Path(name), x, data, dense=preset == "dense")
        runs = [onnx_runner(row.pop("path"), 1) for row in rows.values()]
        timings = time_in_turn([lambda run=run: run((x,)) for run in runs], rounds=args.rounds, budget=600.0)
    base = timings[list(rows).index("dense int8")]
    for (label, row), timing in zip(rows.items(), timings, strict=True):
        faster = ratio(base, timing)
        row |= {"ms": 1e3 * timing.median, "faster_than_dense_int8": asdict(faster), "rounds": timing.rounds}
        error = f"{row['fidelity']['error']:.2%}" if row["fidelity"] else ""
        spread = f"{faster.median:.2f} ({faster.low:.2f}–{faster.high:.2f})"
        print(
            f"{label:20} {row['bytes']:>12,} bytes {row['ms']:8.2f} ms {spread:>20} × dense int8  {error}", flush=True
        )
    about = {
        "arguments": {**vars(args), "out": None},
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.model}-int8.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
