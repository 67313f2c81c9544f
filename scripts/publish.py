"""Copies finished runs into results/, with the machine and the date: `python scripts/publish.py quickstart|real RUNS`.

`quickstart`: records and pictures of runs/quickstart. `real`: the table of scripts/reproduce_real.sh. Afterwards
`python scripts/update_readme.py` renews the README.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "quickstart": "bash scripts/quickstart.sh",
    "real": "bash scripts/reproduce_real.sh DATA_ROOT runs/real",
}


def processor() -> str:
    """The processor's name, as far as the system tells, and how many cores there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    what, runs = sys.argv[1], Path(sys.argv[2])
    target = ROOT / "results" / what
    target.mkdir(parents=True, exist_ok=True)
    if what == "quickstart":
        for name in ("results.json", "accuracy.png", "windows-autosample.png", "windows-wsnet.png"):
            shutil.copy(runs / name, target / name)
    else:
        collect = [sys.executable, str(ROOT / "scripts" / "collect_runs.py"), str(runs), "--out", str(target)]
        subprocess.run(collect, check=True)
    about = {
        "command": COMMANDS[what],
        "hardware": processor(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    (target / "about.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
