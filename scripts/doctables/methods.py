"""The tables of the pages on single methods."""

import json
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from autosample.experiments.collect import paired_p
from doctables.records import read, results, source, table

Row = Mapping[str, Any]
#: Regimes of `scripts/measure_generations.py`, as tables and pictures say them.
REGIMES = {"as they are": "Images as they are, 30 epochs", "augmented": "Augmented images, 20 epochs"}


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


class Member(NamedTuple):
    """One net of a chain of generations, or an ensemble of them."""

    regime: str
    net: str
    loss: str
    taught: bool
    name: str

    @property
    def teacher(self) -> str:
        """What it learns from, as tables say it."""
        number = self.name.removeprefix("generation ")
        if not number.isdigit():
            return ""
        if self.taught and number == "1":
            return f"dense net, `{self.loss}`"
        return f"generation {int(number) - 1}, `{self.loss}`" if number != "0" else "labels"


Scores = dict[Member, list[float]]


def generations_tables() -> str:
    """Accuracy of generations and of their ensembles, against generation 0 of the same net; a table for each regime."""
    if not (results() / "methods/generations.json").exists():
        return "No records yet: `bash scripts/reproduce_generations.sh DATA_ROOT` makes them."
    record = read("methods/generations.json")
    found, trained = scores(record["chains"]), scores(record["chains"], "trained")
    heads = "net | member | learns from | >training accuracy [%] | >test accuracy [%] | >gain over labels | >seeds"
    parts = []
    for regime, title in REGIMES.items():
        lines = [_generation(member, found, trained) for member in found if member.regime == regime]
        parts.append(f"{title}:\n\n{table(heads, lines)}")
    return "\n\n".join([*parts, source(record)])


def _generation(member: Member, found: Scores, trained: Scores) -> str:
    values, first = found[member], found.get(Member(member.regime, member.net, "ban", False, "generation 0"))
    gain = _gain(values, first[: len(values)]) if first and values != first else ""
    reached = f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
    learned = f"{mean(trained[member]):.1f}" if member in trained else ""
    cells = (member.net, member.name, member.teacher, learned, reached, gain, len(values))
    return f"| {' | '.join(map(str, cells))} |"


def scores(chains: Sequence[Row], of: str = "accuracy") -> Scores:
    """Accuracies [%] of each member of a chain, in the order of its seeds; those that are not known are left out."""
    found: Scores = {}
    for chain in chains:
        for row in chain["rows"]:
            if row.get(of) is not None:
                member = Member(chain["regime"], chain["net"], chain["loss"], chain["taught"], row["net"])
                found.setdefault(member, []).append(row[of])
    return found


def _gain(values: Sequence[float], first: Sequence[float]) -> str:
    p = paired_p(values, first)[0]
    return f"{mean(values) - mean(first):+.2f}" + ("" if p is None else f" (p {p:.2g})")


def _line(row: Row, count: Row) -> str:
    size = row["size"].removeprefix("strassen ")
    score = f"{row['accuracy_percent']:.2f} ± {row['std_percent']:.2f} | {row['stored_bytes']:,}"
    runs = row["seeds"] if row["seeds"] == row["wanted"] else f"{row['seeds']} of {row['wanted']}"
    return f"| {size} | `{row['method']}` | {score} | {count['multiplications']:,} | {count['additions']:,} | {runs} |"
