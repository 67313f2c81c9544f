"""Measures exported models, dense and deployed: `python scripts/compare_runtimes.py [OUT] [THREADS…]`.

Writes a JSON record of sizes and times for each model and number of threads (default: 1) to OUT (default:
runs/runtimes).
"""

import json
import sys
from datetime import date
from pathlib import Path

import onnxruntime
import torch

from autosample.experiments.bench.cases import suite
from autosample.experiments.bench.sides import converted
from autosample.export.compare import compare_runtimes
from autosample.system.machine import hardware

ROWS = ("soundnet8-s8c8", "resnet18")


def main() -> None:
    out, *counts = sys.argv[1:] or ["runs/runtimes"]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for work in (row for row in suite("models") if row.name in ROWS):
        for threads in [int(count) for count in counts] or [1]:
            torch.manual_seed(0)
            torch.set_num_threads(threads)
            model = converted(work).eval()
            result = compare_runtimes(model, torch.randn(work.batch, *work.input))
            print(f"{work.name}\n{result}", flush=True)
            about = {
                "command": f"python scripts/compare_runtimes.py OUT {threads}",
                "date": date.today().isoformat(),
                "hardware": hardware(),
                "torch": torch.__version__,
                "onnxruntime": onnxruntime.__version__,
            }
            record = {"workload": work.to_dict(), **about, **result.to_dict()}
            (folder / f"{work.name}-{threads}t.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
