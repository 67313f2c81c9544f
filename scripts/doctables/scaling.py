"""Tables of many devices: measured sums of gradients, and what the ImageNet recipes would need on 1, 8 and 64 GPUs."""

from collections.abc import Mapping
from typing import Any

from doctables.records import read_all, source, table

Record = Mapping[str, Any]

_MISSING = "No record yet: `python scripts/measure_allreduce.py` makes it."
# A GPU, as its data sheet has it: NVIDIA A100 with 80 GB, in nodes of eight.
PEAK = 312e12  # operations a second in bf16
INSIDE, BETWEEN = 300e9, 25e9  # bytes a second that a GPU sends within a node, and to other nodes
NODE = 8
# What a net reaches of the peak; a guess from usual trainings.
SHARE = 0.35
DEVICES = (1, 8, 64)
IMAGES = 1_281_167  # of ImageNet's training set
# Numbers in float32 besides parameters and gradients: those of the optimizer, and the average of the net.
_STATE = {"sgd": 1, "lamb": 2, "adamw": 2}


def _record() -> Record | None:
    found = read_all("scaling")
    return found[0] if found else None


def allreduce_table() -> str:
    """Measured times in which processes of one machine add up the gradients of a net, and the sizes of these."""
    if (record := _record()) is None:
        return _MISSING
    lines = []
    for row in record["reductions"]:
        sizes = [row["gradient_bytes"][side] for side in ("dense", "folded")]
        times = " | ".join(f"{1e3 * row[side]['median']:.3g}" for side in ("dense", "folded"))
        bytes_ = " | ".join(f"{size / 1e6:.1f}" for size in sizes)
        lines.append(
            f"| {row['processes']} | {bytes_} | {times} | {_spread(row['faster'])} | {sizes[0] / sizes[1]:.2f} |"
        )
    heads = (
        ">processes | >dense [MB] | >`folded` [MB] | >dense [ms] | >`folded` [ms] | >faster (quartiles) | "
        ">ratio of the bytes"
    )
    step = record["step"]
    note = (
        f"{record['net']}, `folded` at {record['ratio']}x. A step of it, forward and backward, with a batch of "
        f"{record['batch']}, threads: {record['threads']}: dense {step['dense']['median']:.3g} s, `folded` "
        f"{step['folded']['median']:.3g} s, {_spread(step['faster'])} times as fast. "
    )
    return f"{table(heads, lines)}\n\n{note}{source(record)}"


def _spread(ratio: Record) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def prediction(recipe: Record, devices: int) -> dict[str, dict[str, float]]:
    """What a recipe needs on so many GPUs: dense, and compact with the same time for its arithmetic.

    `hours` of the whole training, `sums` [ms] for adding up the gradients of a step, `share` of these in a step that
    hides nothing, `memory` [GB] and `traffic` [GB an epoch] of each GPU.
    """
    step = recipe["batch"] * recipe["accumulate"] * NODE  # examples, whatever the number of GPUs
    own = step / devices  # examples of one GPU in a step
    batch = min(recipe["batch"], own)
    work = 6 * recipe["nets"]["dense"]["macs"] * own / (SHARE * PEAK)  # a backward pass costs two forward passes
    found = {}
    for kind, net in recipe["nets"].items():
        sent = 2 * (devices - 1) / devices * net["gradient_bytes"]
        sums = sent / (INSIDE if devices <= NODE else BETWEEN)
        steps = IMAGES / step
        kept = net["kept_bytes"] * batch / 2 + net["kept_besides"] / 2  # in bf16
        found[kind] = {
            "hours": recipe["epochs"] * steps * (work + sums) / 3600,
            "sums": 1e3 * sums,
            "share": sums / (work + sums),
            "memory": (net["gradient_bytes"] * (3 + _STATE[recipe["optimizer"]]) + kept) / 1e9,
            "traffic": sent * steps / 1e9,
        }
    return found


def scaling_table() -> str:
    """Predictions for the ImageNet recipes, dense → compact."""
    if (record := _record()) is None:
        return _MISSING
    lines = []
    for recipe in record["recipes"]:
        for devices in DEVICES:
            dense, compact = prediction(recipe, devices).values()
            cells = [
                f"{recipe['recipe'].partition('imagenet_')[2]}, `{recipe['spec']}` {recipe['ratio']:g}x",
                str(devices),
                *(_both(dense[name], compact[name]) for name in ("hours", "sums")),
                _both(100 * dense["share"], 100 * compact["share"]),
                *(_both(dense[name], compact[name]) for name in ("memory", "traffic")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    heads = (
        "recipe | >GPUs | >training [h] | >sums of gradients, a step [ms] | >share of the step [%] | "
        ">memory of a GPU [GB] | >sent by a GPU, an epoch [GB]"
    )
    return f"{table(heads, lines)}\n\nDense → compact. Sizes of nets: {source(record)}"


def _both(dense: float, compact: float) -> str:
    return f"{dense:.3g} → {compact:.3g}"
