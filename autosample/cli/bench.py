"""The verb `bench`: the speed of converted layers and models."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from autosample.cli.options import Parser, Several, number, parse, whole
from autosample.errors import ConfigError, ConversionError
from autosample.experiments.bench.cases import SUITES, Workload, altered, chosen, own, suite
from autosample.experiments.bench.growth import slopes
from autosample.experiments.bench.measure import measure
from autosample.experiments.bench.pictures import plot
from autosample.experiments.bench.record import Record, Row, write
from autosample.experiments.bench.show import print_record
from autosample.reuse import fused
from autosample.sampling.spec import spec
from autosample.system.machine import hardware
from autosample.system.progress import tracked
from autosample.system.timing import keep_memory

#: Types to compute with, by name.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ROUNDS = 31


def declare(parser: Parser) -> None:
    """Declare the options of `bench`."""
    parser.description = (
        "Time converted layers and models against the fastest dense torch. Both sides take turns in one process.\n"
        "Writes a JSON record and a picture for each suite and number of threads."
    )
    add = parser.add_argument
    add("suites", nargs="*", help=f"what to measure: {', '.join(SUITES)}; or input, which has its own --help")
    add("--threads", nargs="+", type=whole, default=[1], help="numbers of threads; each is measured in turn (1)")
    add("--batch", type=whole, help="batch size; targets apply only to the suite's own")
    add("--dtype", default="float32", help=f"{' or '.join(DTYPES)} (float32)")
    add("--device", default="cpu", help="cpu or cuda (cpu)")
    add("--out", type=Path, default=Path("runs/bench"), help="folder for records and pictures (runs/bench)")
    add("--no-compile", dest="compile", action="store_false", default=True, help="do not measure compiled sides")
    add("--no-memory", dest="memory", action="store_false", default=True, help="do not measure peak memory")
    add(
        "--rounds",
        type=whole,
        default=_ROUNDS,
        help=f"maximum number of rounds ({_ROUNDS}); a row takes about two minutes at most",
    )
    add(
        "--keep-memory",
        dest="keep",
        action="store_true",
        default=False,
        help="keep freed memory in the process, for both sides (as jemalloc does)",
    )
    add("--only", nargs="+", help="measure only the workloads with these names")
    add("--model", help="measure this model instead of a suite")
    add("--spec", default="autosample", help="preset for --model (autosample)")
    add("--ratio", type=number, default=8.0, help="dense weights per stored number for --model (8)")
    add("--input", nargs="+", action=Several, each=whole, help="shape of one example for --model, without the batch")


def main(args: Sequence[str]) -> None:
    """Measure suites, or a user's own model; print tables and write records.

    Raises:
        ConfigError: A suite, workload, model or option is not usable. Nothing has been measured then.
        ConversionError: A side gave wrong outputs. All records have been written then.
    """
    if args[1:2] == ["input"]:
        from autosample.cli.bench_input import main as measure_input

        return measure_input(args)
    given = parse(args, declare)
    suites, threads, out = given.pop("suites"), given.pop("threads"), given.pop("out")
    _check(threads=threads, batch=(given["batch"],), rounds=(given["rounds"],), input=given["input"] or ())
    options = _options(given)
    plan = _own(suites, given) if given["model"] else _suites(suites, given["only"])
    if not given["model"]:
        given = {name: value for name, value in given.items() if name not in ("spec", "ratio", "input")}
    if given["keep"]:
        keep_memory()
    console, wrong = Console(width=None if Console().is_terminal else 200), []
    for name, rows in plan.items():
        usual = (given["dtype"], given["device"]) == ("float32", "cpu")
        rows = [altered(row, given["batch"], usual=usual) for row in rows]
        for count in threads:
            label = f"{name}, {_threads(count)}"
            measured = tuple(_measured(rows, {**options, "threads": count}, label))
            record = Record(name, _about(() if given["model"] else (name,), count, given), measured, slopes(measured))
            _publish(record, out / f"{_file_name(name, given)}-{count}t.json", console)
            wrong += [f"{row.workload.name} ({label})" for row in measured if row.error]
    if wrong:
        raise ConversionError(
            f"outputs must equal those of dense torch, got errors in {', '.join(wrong)}: see the table above"
        )


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `measure`, the same for all workloads."""
    place = {"dtype": dtype_of(given["dtype"]), "device": device_of(given["device"])}
    return {**place, "memory": given["memory"], "rounds": given["rounds"], "compiled": given["compile"]}


def _measured(rows: Sequence[Workload], options: dict[str, Any], label: str) -> Iterator[Row]:
    # a generator: tracked() moves the bar after each row
    return tracked((measure(work, **options) for work in rows), len(rows), label)


def _publish(record: Record, path: Path, console: Console) -> None:
    print_record(record, console)
    write(record, path)
    plot(record, path.with_suffix(".png"))
    console.print(f"written: {path}")


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _check(**counts: Sequence[int | None]) -> None:
    for name, numbers in counts.items():
        for count in numbers:
            if count is not None and count < 1:
                raise ConfigError(f"{name} must be at least 1, got {count}: leave it out for the default")


def dtype_of(name: str) -> torch.dtype:
    """The type of this name.

    Raises:
        ConfigError: There is no such type.
    """
    if name not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {name}: leave it out for float32")
    return DTYPES[name]


def device_of(name: str) -> torch.device:
    """The device of this name.

    Raises:
        ConfigError: It is not usable.
    """
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu or cuda, got {name}: leave it out for the CPU")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU that torch can use, got none: leave it out for the CPU")
    return torch.device(name)


def _suites(names: Sequence[str], only: Sequence[str] | None) -> dict[str, list[Workload]]:
    if not names:
        raise ConfigError(f"bench needs a suite or --model, got neither: suites are {', '.join(SUITES)}")
    if "input" in names:  # its options are other ones
        raise ConfigError(
            f"bench input is a command of its own, got {' '.join(names)}: put input first, without suites"
        )
    plan = {name: suite(name) for name in names}
    if only is None:
        return plan
    every = [row for rows in plan.values() for row in rows]
    wanted = {id(row) for row in chosen(every, only)}
    plan = {name: [row for row in rows if id(row) in wanted] for name, rows in plan.items()}
    return {name: rows for name, rows in plan.items() if rows}


def _own(suites: Sequence[str], given: Mapping[str, Any]) -> dict[str, list[Workload]]:
    from autosample.models import create

    model, preset, ratio, shape = (given[name] for name in ("model", "spec", "ratio", "input"))
    if suites:
        raise ConfigError(f"bench takes either suites or --model, got both ({suites[0]} and {model}): remove one")
    if not shape:
        raise ConfigError("--model needs the shape of one example, got none: write --input 3 224 224")
    spec(preset, ratio=ratio)
    with torch.device("meta"):  # only checks that the model exists
        create(model, num_classes=10)
    return {"model": chosen(own(model, preset, ratio, shape), given["only"])}


def _file_name(name: str, given: Mapping[str, Any]) -> str:
    batch, usual = given["batch"], {"float32": "", "cpu": ""}
    kinds = (usual.get(given[key], given[key]) for key in ("dtype", "device"))
    parts = (name, f"b{batch}" if batch else "", *kinds, "kept" if given["keep"] else "")
    return "-".join(part for part in parts if part)


def _about(suites: Sequence[str], threads: int, given: Mapping[str, Any]) -> dict[str, Any]:
    why = fused.why_not()
    return {
        **surroundings(_command(suites, {"threads": [threads], **given}), given["device"]),
        "threads": threads,
        "dtype": given["dtype"],
        "compiled": given["compile"],
        "memory_kept": given["keep"],
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("OMP_", "MALLOC_"))},
        "fused_kernel": {"available": not why, "why_not": why, "version": fused.version()},
    }


def surroundings(words: Sequence[str], device: str) -> dict[str, Any]:
    """What every record says: the command, the date, the hardware and versions."""
    return {
        "command": shlex.join(words),
        "date": date.today().isoformat(),
        "hardware": hardware() if device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _command(suites: Sequence[str], given: Mapping[str, Any]) -> list[str]:
    """The command that measures this record again."""
    words = ["autosample", "bench", *suites]
    for name, value in given.items():
        if name == "keep":
            words += ["--keep-memory"] if value else []
        elif isinstance(value, bool):
            words += [] if value else [f"--no-{name}"]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words
