"""Tables of the real run: the recipes run by their command, cut short by flags."""

from collections.abc import Mapping, Sequence
from statistics import mean
from textwrap import wrap
from typing import Any

from doctables.records import read, results, source, table

Record = Mapping[str, Any]

_FOLDER = "real-run"
_SPECS = ("autosample", "folded", "dense")
# what a checkpoint and a log hold, in words
_COMPARED = {
    "weights": ("current_model_state",),
    "optimizer": ("optimizer_states", "lr_schedulers"),
    "average (EMA)": ("state_dict", "averaging_state"),
    "logged losses": ("train/loss", "train/acc", "val/loss", "test/loss"),
}


def _record(part: str) -> Record | None:
    return read(f"{_FOLDER}/{part}.json") if (results() / _FOLDER / f"{part}.json").exists() else None


def _missing(part: str) -> str:
    return f"No record yet: `python scripts/real_run.py OUT DATA_ROOT --parts {part}` makes it."


def _with_source(text: str, record: Record) -> str:
    return f"{text}\n\n{source(record)}"


def _commands(commands: Sequence[str]) -> str:
    """Commands as a block, in lines of the page's width."""
    wrapped = (" \\\n  ".join(wrap(one, 116, break_long_words=False, break_on_hyphens=False)) for one in commands)
    return "\n".join(["```bash", *wrapped, "```"])


def pictures() -> str:
    """The drawn set: how many pictures, in how many files and bytes."""
    if (record := _record("pictures")) is None:
        return _missing("pictures")
    kept = {"folders": {"files": record["pictures"], "bytes": record["bytes"]}, **record["packed"]}
    lines = [f"| {name} | {one['files']:,} | {one['bytes'] / 1e6:.0f} |" for name, one in kept.items()]
    told = f"{record['pictures']:,} pictures of {record['size']} px in {record['classes']} classes."
    made = table("kept as | >files | >MB", lines)
    return _with_source(f"{_commands(record['commands'])}\n\n{told}\n\n{made}", record)


def resumed() -> str:
    """Whether killed trainings have ended like those without a break."""
    if (record := _record("resumed")) is None:
        return _missing("resumed")
    lines = []
    for row in record["rows"]:
        kill = f"{row['kill']['step']}, batch {row['kill']['batch_of_epoch']} of its epoch" if row["killed"] else "—"
        same = (all(row["equal"][name] for name in names) for names in _COMPARED.values())
        cells = ["the same" if one else "**differs**" for one in same]
        lines.append(f"| {row['kept']} | {kill} | {row['steps']} | {' | '.join(cells)} |")
    made = table(f"kept as | killed; went on from step | >steps | {' | '.join(_COMPARED)}", lines)
    return _with_source(f"{_commands(record['commands'][1:3])}\n\n{made}", record)


def processes() -> str:
    """How far two processes are from one."""
    if (record := _record("processes")) is None:
        return _missing("processes")
    lines = []
    for row in record["rows"]:
        apart = " | ".join(f"{row['apart'][name]:.1e}" for name in ("weights", "moments", "loss"))
        lines.append(f"| {row['precision']} | {row['steps']} | {apart} |")
    made = table("precision | >steps | >weights | >first moments of the optimizer | >mean loss", lines)
    return _with_source(f"{_commands(record['commands'][:2])}\n\n{made}", record)


def cifar10() -> str:
    """Accuracy on CIFAR-10 after minutes."""
    if (record := _record("cifar10")) is None:
        return _missing("cifar10")
    seen = f"{record['steps']} steps of {record['batch']} pictures"
    line = f"| {seen} | {record['accuracy']:.2f} | {record['chance']:.0f} | {record['seed']} |"
    made = table("trained for | >accuracy on all 10,000 test pictures [%] | >chance [%] | >seed", [line])
    return _with_source(f"{_commands(record['commands'])}\n\n{made}", record)


def esc10() -> str:
    """Accuracy on each fold of ESC-10."""
    found = {spec: record for spec in _SPECS if (record := _record(f"esc10-{spec}"))}
    if not found:
        return _missing(f"esc10-{_SPECS[0]}")
    lines = []
    for spec, record in found.items():
        reached = [row["accuracy"] for row in record["rows"]]
        folds = " | ".join(f"{one:.1f}" for one in reached)
        size = record["rows"][0]["stored_bytes"] / 1e6
        lines.append(f"| `{spec}` | {size:.1f} | {folds} | {mean(reached):.1f} |")
    heads = f"spec | >MB | {' | '.join(f'>fold {i} [%]' for i in range(1, 6))} | >mean [%]"
    first = next(iter(found.values()))
    about = f"{first['epochs']} epochs, seed {first['seed']}; chance is {first['chance']:.0f} %."
    return f"{_commands(first['commands'][:1])}\n\n{table(heads, lines)}\n\n{about} " + " ".join(
        source(record) for record in found.values()
    )


def memory() -> str:
    """Memory of workers over an epoch."""
    if (record := _record("memory")) is None:
        return _missing("memory")
    lines = []
    for row in record["rows"]:
        for number in range(record["workers"]):
            at = [mark["workers"][number] for mark in row["marks"]]
            cells = " | ".join(f"{one['resident'] / 1e6:.0f} ({one['own'] / 1e6:.0f})" for one in at)
            lines.append(f"| {row['kept']} | {number + 1} | {cells} |")
    shares = [f">after {100 * mark['share']:.0f} %" for mark in record["rows"][0]["marks"]]
    made = table(f"kept as | worker | {' | '.join(shares)}", lines)
    count = record["rows"][0]["pictures"]
    told = f"Resident MB, and in brackets those shared with no other process, in an epoch of {count:,} pictures."
    return _with_source(f"{made}\n\n{told}", record)
