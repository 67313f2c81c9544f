"""Measures what several devices send: `python scripts/measure_allreduce.py [--rounds 15] [--batch 8]`.

Three parts go into results/scaling/allreduce.json, from which docs/scaling.md gets its tables:

* of each ImageNet recipe, dense and compact: the bytes of its gradients, the multiply-adds of an example, and the bytes
  that a forward pass keeps for the backward pass, for each example and besides;
* the time of a step of resnet50, dense and `folded` at 8x, in turn, in this process;
* the time in which 2 and 4 gloo processes of this machine add up the gradients of these two nets, in turn.
"""

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

import autosample
from autosample.model.recipe import Recipe
from autosample.system.configs import names, read
from autosample.system.files import write_json
from autosample.system.machine import hardware
from autosample.system.timing import Timing, ratio, time_in_turn

ROOT = Path(__file__).resolve().parent.parent
NET, RATIO = "resnet50", 8
WORLDS = (2, 4)
# as torch's DistributedDataParallel sends gradients [bytes]
BUCKET = 25 << 20


def gradient_bytes(net: nn.Module) -> int:
    """Bytes of the gradients of all parameters."""
    return sum(p.nbytes for p in net.parameters() if p.requires_grad)


def kept_bytes(net: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the parameters."""
    own, kept = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(x)
    del out
    return sum(kept.values())


def described(net: nn.Module) -> dict[str, int]:
    """The numbers of a net that its time, memory and traffic follow from, in float32."""
    small, large = (kept_bytes(net.train(), torch.zeros(batch, 3, 224, 224)) for batch in (2, 4))
    each = (large - small) // 2
    macs = autosample.report(net, torch.zeros(1, 3, 224, 224)).macs
    assert macs is not None
    sizes = {"gradient_bytes": gradient_bytes(net), "kept_bytes": each, "kept_besides": max(small - 2 * each, 0)}
    return {**sizes, "macs": macs}


def recipes() -> list[dict[str, Any]]:
    """The ImageNet recipes with their nets, dense and compact."""
    rows = []
    for name in (name for name in names("experiment") if "imagenet" in name):
        config = read(name)
        model, trainer = config["model"], config["trainer"]
        nets = {"dense": Recipe.of({**model, "spec": "dense", "ratio": None}), "compact": Recipe.of(model)}
        plan = {"batch": config["data"]["init_args"]["batch_size"], "epochs": trainer["max_epochs"]}
        plan |= {"accumulate": trainer.get("accumulate_grad_batches", 1), "optimizer": model["optimizer"]}
        told = {"recipe": name, "model": model["model"], "spec": model["spec"], "ratio": model["ratio"]}
        rows.append({**told, **plan, "nets": {kind: described(recipe.build()) for kind, recipe in nets.items()}})
    return rows


def pair() -> list[nn.Module]:
    """The nets that are compared: dense, and folded."""
    dense, folded = (timm.create_model(NET) for _ in range(2))
    autosample.convert_(folded, "folded", ratio=RATIO)
    return [dense, folded]


def steps(batch: int, rounds: int) -> dict[str, Any]:
    """Times of a step, forward and backward, at 224 px."""
    x, y = torch.randn(batch, 3, 224, 224), torch.randint(0, 1000, (batch,))

    def step(net: nn.Module) -> Callable[[], None]:
        return lambda: nn.functional.cross_entropy(net(x), y).backward()

    return compared(time_in_turn([step(net) for net in pair()], rounds=rounds, budget=math.inf))


def compared(timings: list[Timing]) -> dict[str, Any]:
    """Medians and quartiles of dense and folded [s], and of the ratio of their times."""
    dense, folded = timings
    sides = {
        name: {"median": t.median, "low": t.low, "high": t.high}
        for name, t in zip(("dense", "folded"), timings, strict=True)
    }
    return {**sides, "faster": vars(ratio(dense, folded)), "rounds": dense.rounds}


def buckets(size: int) -> list[Tensor]:
    """Gradients of so many bytes, in the pieces in which they are sent."""
    return [torch.zeros(min(BUCKET, size - start) // 4) for start in range(0, size, BUCKET)]


def add_up(rank: int, world: int, sizes: list[int], rounds: int, folder: str) -> None:
    """One of the processes that add up gradients; the first one writes what it measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)

    def side(parts: list[Tensor]) -> Callable[[], None]:
        def run() -> None:
            for work in [dist.all_reduce(part, async_op=True) for part in parts]:
                work.wait()

        return run

    # the order of the sides is the same in all processes
    timings = time_in_turn([side(buckets(size)) for size in sizes], rounds=rounds, budget=math.inf)
    if rank == 0:
        write_json(Path(folder) / "times.json", compared(timings))
    dist.destroy_process_group()


def reductions(rounds: int) -> list[dict[str, Any]]:
    """Times of adding up the gradients of the two nets over processes of this machine."""
    rows, sizes = [], [gradient_bytes(net) for net in pair()]
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            start_processes(add_up, (world, sizes, rounds, folder), nprocs=world, start_method="spawn")
            times = json.loads((Path(folder) / "times.json").read_text())
        rows.append({"processes": world, "gradient_bytes": dict(zip(("dense", "folded"), sizes, strict=True)), **times})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "scaling")
    given = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.manual_seed(0)
    record = {
        "command": f"python scripts/measure_allreduce.py --rounds {given.rounds} --batch {given.batch}",
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "torch": torch.__version__,
        "net": NET,
        "ratio": RATIO,
        "threads": torch.get_num_threads(),
        "batch": given.batch,
        "reductions": reductions(given.rounds),
        "step": steps(given.batch, given.rounds),
        "recipes": recipes(),
    }
    write_json(given.out / "allreduce.json", record)
    for row in record["reductions"]:
        print(f"{row['processes']} processes: folded is {row['faster']['median']:.1f} times as fast to add up")


if __name__ == "__main__":
    main()
