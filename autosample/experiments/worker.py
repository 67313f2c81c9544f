"""A worker process. It reads cells from standard input, and writes ticks and outcomes, one line of JSON each.

It ends when its input closes, so it never outlives its runner.
"""

import json
import os
import queue
import sys
import threading
from typing import TextIO

from autosample.experiments.attempt import attempt, pack_outcome, unpack_cell
from autosample.system.plugins import import_modules


def _listen(lines: "queue.Queue[str]") -> None:
    """Put lines of the input into a queue. When the input closes, end the process at once, even during training."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def serve(out: TextIO) -> None:
    """Run cell after cell, one at a time."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def tell(message: dict) -> None:
        print(json.dumps(message), file=out, flush=True)

    import_modules()  # those of the command that started this process
    while True:
        order = json.loads(lines.get())
        outcome = attempt(unpack_cell(order["cell"]), lambda: tell({"tick": 1}), order["wandb"])
        tell(pack_outcome(outcome))


if __name__ == "__main__":
    # output that libraries print must not mix with our lines
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(channel)
