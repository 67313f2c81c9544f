"""Compare sizes of all files, and times of the dense and the deployed model in torch and onnxruntime."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autosample.deployment.deploy import deploy
from autosample.export.check import OversizeError
from autosample.export.formats import FORMATS, Run
from autosample.export.formats.onnx import onnx_runner, to_onnx
from autosample.export.portable import dense_model, portable
from autosample.export.write import export_onnx, write_model
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
    """

    bytes: int | None = None
    seconds: float | None = None
    faster: tuple[float, float, float] | None = None


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
        return make_table(heads, rows, left=("",), title=title)


def _cells(side: Side) -> tuple[str, str, str]:
    size = "" if side.bytes is None else f"{side.bytes:,}"
    time = "" if side.seconds is None else f"{1e3 * side.seconds:.3g}"
    times = "" if side.faster is None else "{:.2f} ({:.2f}–{:.2f})".format(*side.faster)
    return size, time, times


@torch.no_grad()
def compare_runtimes(model: nn.Module, example: Tensor, *, rounds: int = 31, budget: float = 30.0) -> Comparison:
    """Write a model in all formats, and time dense and deployed sides in turn, with torch's number of threads.

    Args:
        model: A converted model, not deployed.
        example: An input; times are for its batch and size.
        rounds, budget: As for `time_in_turn`.

    Raises:
        ExportError, MissingExtra: As `export_onnx`.
    """
    require("export")
    threads, known = torch.get_num_threads(), portable(model, example)
    plain, fast = dense_model(known.reference, example), deploy(model, example)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes, runs = _files(model, plain, example, folder, threads)
        sides: dict[str, Callable[[], object]] = {
            "dense torch": lambda: plain(example),
            "deployed torch": lambda: fast(example),
        }
        sides |= {side: lambda run=run: run((example,)) for side, run in runs.items()}
        timings = dict(zip(sides, time_in_turn(list(sides.values()), rounds=rounds, budget=budget), strict=True))
    sizes |= {"dense safetensors": known.dense_bytes, "stored": known.stored_bytes}
    order = ("dense safetensors", "stored", "dense torch", "deployed torch", BASELINE, _FLAT, *map(_label, FORMATS))
    there = [name for name in order if name in sizes or name in timings]
    rows = {name: _side(sizes.get(name), timings.get(name), timings[BASELINE]) for name in there}
    return Comparison(threads, rows)


_FLAT = "dense onnx, flat signals"


def _label(form: str) -> str:
    """The name of a format in the table."""
    return form.replace("-", " ")


def _side(size: int | None, timing: Timing | None, baseline: Timing) -> Side:
    if timing is None:
        return Side(size)
    faster = ratio(baseline, timing)
    return Side(size, timing.median, (faster.median, faster.low, faster.high))


def _files(
    model: nn.Module, plain: nn.Module, example: Tensor, folder: Path, threads: int
) -> tuple[dict[str, int], dict[str, Run]]:
    """All files in a folder: their sizes, and functions that run them."""
    import onnx_ir

    onnx_ir.save(to_onnx(plain, (example,), opset=18, dynamic=None), folder / BASELINE)
    export_onnx(model, folder / _FLAT, example, dense=True)
    runs = {name: onnx_runner(folder / name, threads) for name in (BASELINE, _FLAT)}
    for name, form in FORMATS.items():
        side = _label(name)
        with contextlib.suppress(OversizeError):  # a quantised model may have no compact form in floating point
            write_model(form, model, folder / side, example)
            runs[side] = form.runner(folder / side, threads)
    return {side: (folder / side).stat().st_size for side in runs}, runs
