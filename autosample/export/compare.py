"""Compare sizes of all files, and times of the dense and the deployed model in torch and onnxruntime."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autosample.deployment.deploy import deploy
from autosample.export.check import OversizeError
from autosample.export.formats import FORMATS, Run
from autosample.export.formats.calibration import Batches, Fidelity, fidelity
from autosample.export.formats.onnx import onnx_runner, to_onnx
from autosample.export.formats.onnx_int8 import OnnxInt8
from autosample.export.portable import dense_model, portable
from autosample.export.write import dynamic_batches, export_onnx, write_model
from autosample.system.extras import require
from autosample.system.tables import Printed, make_table
from autosample.system.timing import Timing, ratio, time_in_turn

if TYPE_CHECKING:
    from rich.table import Table

#: The baseline of times: the dense model as `torch.onnx.export` writes it.
BASELINE = "dense onnx"


@dataclass(frozen=True)
class Side:
    """One way to store and run a model.

    Attributes:
        bytes: Size on disk, or `None` for models that are made when a program starts.
        seconds: Median time per call, or `None` if it was not timed.
        faster: Speed relative to `BASELINE` (median, lower and upper quartile over rounds).
        error, same: Relative error of the outputs, and share of examples of the same class, on the calibration data.
    """

    bytes: int | None = None
    seconds: float | None = None
    faster: tuple[float, float, float] | None = None
    error: float | None = None
    same: float | None = None


@dataclass(frozen=True)
class Comparison(Printed):
    """Sides by name; prints as a table."""

    threads: int
    sides: Mapping[str, Side] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __rich__(self) -> "Table":
        heads = ("", "bytes", "per call [ms]", f"speed-up over {BASELINE}")
        title = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        rows = [(name, *_cells(side)) for name, side in self.sides.items()]
        if any(side.error is not None for side in self.sides.values()):
            heads = (*heads, "relative error", "same class")
            rows = [(*row, *_near(side)) for row, side in zip(rows, self.sides.values(), strict=True)]
        return make_table(heads, rows, left=("",), title=title)


def _cells(side: Side) -> tuple[str, str, str]:
    size = "" if side.bytes is None else f"{side.bytes:,}"
    time = "" if side.seconds is None else f"{1e3 * side.seconds:.3g}"
    times = "" if side.faster is None else "{:.2f} ({:.2f}–{:.2f})".format(*side.faster)
    return size, time, times


def _near(side: Side) -> tuple[str, str]:
    return ("" if side.error is None else f"{side.error:.2%}", "" if side.same is None else f"{side.same:.2%}")


@torch.no_grad()
def compare_runtimes(
    model: nn.Module, example: Tensor, *, calibrate: Iterable | None = None, rounds: int = 31, budget: float = 30.0
) -> Comparison:
    """Write a model in all formats, and time dense and deployed sides in turn, with torch's number of threads.

    Args:
        model: A converted model, not deployed.
        example: An input; times are for its batch and size.
        calibrate: As for `export_onnx`; then files with int8 arithmetic are compared too, and all outputs on this data.
        rounds, budget: As for `time_in_turn`.

    Raises:
        ExportError, MissingExtra: As `export_onnx`.
    """
    require("export")
    threads, known = torch.get_num_threads(), portable(model, example)
    plain, fast = dense_model(known.reference, example), deploy(model, example)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batches = None if calibrate is None else dynamic_batches(calibrate, example)
        sizes, runs = _files(model, plain, example, folder, threads, batches)
        of_any_batch = {name: run for name, run in runs.items() if batches is not None and name != BASELINE}
        near = {name: fidelity(known.reference, run, batches or ()) for name, run in of_any_batch.items()}
        sides: dict[str, Callable[[], object]] = {
            "dense torch": lambda: plain(example),
            "deployed torch": lambda: fast(example),
        }
        sides |= {side: lambda run=run: run((example,)) for side, run in runs.items()}
        timings = dict(zip(sides, time_in_turn(list(sides.values()), rounds=rounds, budget=budget), strict=True))
    sizes |= {"dense safetensors": known.dense_bytes, "stored": known.stored_bytes}
    first = ("dense safetensors", "stored", "dense torch", "deployed torch", BASELINE, _FLAT, _DENSE_INT8)
    there = [name for name in (*first, *map(_label, FORMATS)) if name in sizes or name in timings]
    rows = {name: _side(sizes.get(name), timings.get(name), timings[BASELINE], near.get(name)) for name in there}
    return Comparison(threads, rows)


_FLAT = "dense onnx, flat signals"
_DENSE_INT8 = "dense onnx int8"


def _label(form: str) -> str:
    """The name of a format in the table."""
    return form.replace("-", " ")


def _side(size: int | None, timing: Timing | None, baseline: Timing, near: Fidelity | None) -> Side:
    if timing is None:
        return Side(size)
    faster = ratio(baseline, timing)
    known = () if near is None else (near.error, near.same)
    return Side(size, timing.median, (faster.median, faster.low, faster.high), *known)


def _files(
    model: nn.Module, plain: nn.Module, example: Tensor, folder: Path, threads: int, batches: Batches | None
) -> tuple[dict[str, int], dict[str, Run]]:
    """All files in a folder: their sizes, and functions that run them."""
    import onnx_ir

    onnx_ir.save(to_onnx(plain, (example,), opset=18, dynamic=None), folder / BASELINE)
    export_onnx(model, folder / _FLAT, example, dense=True)
    runs = {name: onnx_runner(folder / name, threads) for name in (BASELINE, _FLAT)}
    for name, form in FORMATS.items():
        side = _label(name)
        if isinstance(form, OnnxInt8):
            if batches is None:
                continue
            form = form.adjusted(calibrate=batches)
            write_model(form, model, folder / _DENSE_INT8, example, dense=True)
            runs[_DENSE_INT8] = form.runner(folder / _DENSE_INT8, threads)
        with contextlib.suppress(OversizeError):  # a quantised model may have no compact form in floating point
            write_model(form, model, folder / side, example)
            runs[side] = form.runner(folder / side, threads)
    return {side: (folder / side).stat().st_size for side in runs}, runs
