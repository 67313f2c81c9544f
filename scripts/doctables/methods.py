"""The tables of the pages on single methods."""

import json
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from autosample.experiments.collect import paired_p
from doctables.records import read, results, source, table

Row = Mapping[str, Any]


def strassen_table() -> str:
    """Sum-product layers and others of the same bytes, with what they multiply and add."""
    folder = results() / "ablation/strassen_cifar10"
    if not (folder / "results.json").exists():
        return "No records yet: `bash scripts/reproduce_strassen.sh DATA_ROOT` makes them."
    found = json.loads((folder / "results.json").read_text())
    counts = {(r["method"], r["size"]): r for r in read("ablation/strassen_cifar10/operations.json")["rows"]}
    lines = [_line(row, counts[row["method"], row["size"]]) for row in found["rows"]]
    heads = "bytes of | method | >test accuracy [%] | >stored [bytes] | >multiplications | >additions | >runs"
    note = "Counts are of one image, without norms and biases (`python scripts/count_operations.py`). "
    return f"{table(heads, lines)}\n\n{note}{source(read('ablation/strassen_cifar10/about.json'))}"


def kmeans_text() -> str:
    """What the penalty and renewed norms do to a small net."""
    record = read("methods/kmeans.json")
    plain, drawn = record["nets"]["without the penalty"], record["nets"]["with the penalty"]
    scores = [
        f"{100 * net['dense']:.1f} % accuracy before k-means, {100 * net['clustered']:.1f} % after it, and "
        f"{100 * net['renewed']:.1f} % with renewed norms"
        for net in (plain, drawn)
    ]
    return (
        "A layer of `test_resnet` after 20 epochs on digits, one seed. In this layer, k-means with "
        f"{record['codewords']} codewords loses {100 * plain['error']:.0f} % of the squared weights, and "
        f"{100 * drawn['error']:.0f} % after "
        f"training with the penalty (`strength` {record['penalty']['strength']}, form `indicator`, from "
        f"{100 * record['penalty']['start']:.0f} % of the training on). With all layers clustered at a ratio of "
        f"{record['ratio']}, the net without the penalty has {scores[0]}; with it, {scores[1]}.\n\n{source(record)}"
    )


def clustered_table() -> str:
    """Dense nets after k-means at three sizes, with and without the penalty."""
    folder = results() / "ablation/deep_kmeans_cifar10"
    if not (folder / "results.json").exists():
        return "No records yet: `bash scripts/reproduce_deep_kmeans.sh DATA_ROOT` makes them."
    found = json.loads((folder / "results.json").read_text())
    coded: dict[tuple[int, str], list[int]] = {}
    for record in found["records"]:
        coded.setdefault((record["stored_bytes"], record["label"]), []).append(record["coded_bytes"])
    lines = []
    for row in found["rows"]:
        few = mean(coded[row["stored_bytes"], row["method"]])
        size = "dense" if row["method"] == "dense" else row["size"].split()[0]
        bytes_ = f"{row['stored_bytes']:,} | {few:,.0f}"
        lines.append(f"| {size} | {row['method']} | {_reached(row)} | {bytes_} | {row['seeds']} |")
    heads = "size | pieces | >test accuracy [%] | >stored [bytes] | >with Huffman codes [bytes] | >runs"
    return f"{table(heads, lines)}\n\n{source(read('ablation/deep_kmeans_cifar10/about.json'))}"


def _reached(row: Row) -> str:
    spread = "" if row["std_percent"] is None else f" ± {row['std_percent']:.2f}"
    return f"{row['accuracy_percent']:.2f}{spread}"


def generations_table() -> str:
    """Accuracy of generations and of their ensembles, against generation 0 of the same net."""
    if not (results() / "methods/generations.json").exists():
        return "No records yet: `bash scripts/reproduce_generations.sh DATA_ROOT` makes them."
    record = read("methods/generations.json")
    found, trained = scores(record["chains"]), scores(record["chains"], "trained")
    lines = []
    for (net, loss, member), values in found.items():
        first = found.get((net, "ban", "generation 0")) or found[net.partition(",")[0], "ban", "generation 0"]
        gain = "" if values == first else _gain(values, first[: len(values)])
        shown = "labels" if member == "generation 0" else f"`{loss}`"
        reached = f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
        known = trained.get((net, loss, member))
        learned = f"{mean(known):.1f}" if known else ""
        lines.append(f"| {net} | {shown} | {member} | {learned} | {reached} | {gain} | {len(values)} |")
    heads = "net | learns by | member | >training accuracy [%] | >test accuracy [%] | >gain over generation 0 | >seeds"
    return f"{table(heads, lines)}\n\n{source(record)}"


def scores(chains: Sequence[Row], of: str = "accuracy") -> dict[tuple[str, str, str], list[float]]:
    """Accuracies [%] of each member of a chain, in the order of its seeds; those that are not known are left out."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for chain in chains:
        for row in chain["rows"]:
            if row.get(of) is not None:
                found.setdefault((chain["net"], chain["loss"], row["net"]), []).append(row[of])
    return found


def _gain(values: Sequence[float], first: Sequence[float]) -> str:
    p = paired_p(values, first)[0]
    return f"{mean(values) - mean(first):+.2f}" + ("" if p is None else f" (p {p:.2g})")


def _line(row: Row, count: Row) -> str:
    size = row["size"].removeprefix("strassen ")
    score = f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f} | {row['stored_bytes']:,}"
    runs = row["seeds"] if row["seeds"] == row["wanted"] else f"{row['seeds']} of {row['wanted']}"
    return f"| {size} | `{row['method']}` | {score} | {count['multiplications']:,} | {count['additions']:,} | {runs} |"
