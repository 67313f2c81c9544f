"""Keeps an ablation for the README: `python scripts/publish_ablation.py OUT [OPTIONS OF THE RUN]`, on its machine.

OUT is the folder of `autosample ablate`; the table, its records in brief and the picture go to results/ablation/NAME,
or results/research/NAME for the grids of configs/research, with the command, the machine and the date. Then:
`python scripts/update_readme.py`.
"""

import json
import shutil
import sys
from datetime import date
from pathlib import Path

import torch

from autosample.timing import processor

ROOT = Path(__file__).resolve().parent.parent


def main(out: Path, options: str) -> None:
    """Copy what is to be kept."""
    name = json.loads((out / "results.json").read_text())["name"]
    kind = "research" if (ROOT / f"configs/research/{name}.yaml").exists() else "ablation"
    folder = ROOT / "results" / kind / name
    folder.mkdir(parents=True, exist_ok=True)
    for kept in ("table.md", "results.json", "accuracy.png"):
        shutil.copy(out / kept, folder / kept)
    about = {
        "command": f"autosample ablate configs/{kind}/{name}.yaml {options}".strip(),
        "hardware": processor() if not torch.cuda.is_available() else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), " ".join(sys.argv[2:]))
