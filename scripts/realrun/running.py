"""Commands of the real run: started, killed, and what they leave behind."""

import csv
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from autosample.artifact.checkpoint import load_file
from autosample.system.files import write_json
from autosample.system.machine import hardware

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "real-run"


@dataclass
class Place:
    """Folders of the run, and the commands that a part has started, as a reader would type them.

    Args:
        out: folder of the drawn set and of all runs.
        data: folder of the real sets.
        small: the drawn set has 200 pictures, to try the script.
        results: folder of the records.
    """

    out: Path
    data: Path
    small: bool
    results: Path = RESULTS
    commands: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> Path:
        """The drawn set, in folders and tar files."""
        return self.out / "pictures"

    @property
    def shards(self) -> Path:
        """The drawn set in shards."""
        return self.out / "shards"

    @property
    def classes(self) -> int:
        """Number of classes of the drawn set."""
        return 4 if self.small else 64

    def fresh(self, name: str) -> Path:
        """The folder of a run, without what an earlier start of this script left there."""
        folder = self.out / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def start(self, name: str, words: Sequence[object]) -> subprocess.Popen:
        """Start a script or a verb of autosample; what it prints goes to `out/NAME.log`."""
        self.tell(words)
        words = [str(word) for word in words]
        command = [sys.executable, *([] if words[0].endswith(".py") else ["-m", "autosample"]), *words]
        with (self.out / f"{name}.log").open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def tell(self, words: Sequence[object]) -> None:
        """Note a command for the record."""
        words = [str(word) for word in words]
        told = shlex.join(["python" if words[0].endswith(".py") else "autosample", *words])
        for place, short in ((self.out, "OUT"), (self.data, "DATA_ROOT")):
            told = told.replace(str(place), short)
        self.commands.append(told)

    def run(self, name: str, words: Sequence[object]) -> None:
        """Run a command to its end; a failure ends this script with the last lines that it printed."""
        self.finish(name, self.start(name, words))

    def finish(self, name: str, process: subprocess.Popen) -> None:
        """Wait for a command; a failure ends this script."""
        if process.wait():
            lines = (self.out / f"{name}.log").read_text().splitlines()
            raise SystemExit("\n".join([f"{name} has failed:", *lines[-15:]]))

    def write(self, part: str, found: Mapping[str, Any]) -> None:
        """Write the record of a part."""
        record = {
            "command": f"python scripts/real_run.py OUT DATA_ROOT --parts {part}",
            "date": date.today().isoformat(),
            "hardware": hardware(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "commands": self.commands,
            **found,
        }
        write_json(self.results / f"{part}.json", record)


def fit(recipe: str, root: Path, runs: Path, flags: Sequence[object]) -> list[object]:
    """The words of `autosample fit` with a recipe, on the CPU in float32."""
    words = ["fit", "--config", f"experiment/{recipe}", "--data.root", root, "--trainer.default_root_dir", runs]
    usual = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"]
    return [*words, *usual, *flags]


def checkpoints(runs: Path) -> list[Path]:
    """The files `last.ckpt` below a folder, the newest one last."""
    return sorted(runs.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def last(runs: Path) -> dict[str, Any]:
    """The newest checkpoint below a folder."""
    return load_file(checkpoints(runs)[-1])


def wait_for_step(runs: Path, step: int, process: subprocess.Popen) -> int:
    """Wait until a running training has written the checkpoint of this step, or a later one; gives its step."""
    seen, reached = 0, -1
    while process.poll() is None and reached < step:
        time.sleep(0.05)
        found = checkpoints(runs)
        if found and found[-1].stat().st_mtime_ns != seen:
            seen = found[-1].stat().st_mtime_ns
            reached = load_file(found[-1])["global_step"]
    if reached < step:
        raise SystemExit(f"the training in {runs} ended at step {reached}, before it could be killed at {step}")
    return reached


def logged(runs: Path, name: str) -> list[float]:
    """All values of a column of `metrics.csv`, of all starts of a run in their order."""
    files = sorted(runs.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    rows = (row for path in files for row in csv.DictReader(path.read_text().splitlines()))
    return [float(row[name]) for row in rows if row.get(name)]


def core_seconds() -> float:
    """Seconds on a core of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid: int) -> dict[str, int]:
    """Memory of a process: all that it has mapped, and what it shares with no other [bytes]."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return {
        "resident": 1024 * kilobytes["Rss"],
        "own": 1024 * (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]),
    }


def children() -> list[int]:
    """Numbers of the processes that this one has started and that still run."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
