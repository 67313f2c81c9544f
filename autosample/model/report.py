"""Reports of models: parameters, bytes on disk and multiply-adds, per layer and in total."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autosample.errors import ConversionError
from autosample.model.budget import Budget
from autosample.model.counting import LAYERS, count_operations
from autosample.model.energy import Energy, layer_energy
from autosample.nn import Compressed, outer_modules
from autosample.nn.facts import Operations
from autosample.nn.stored import coded_sizes, compact_state, full_types
from autosample.reuse.deployed import Deployed
from autosample.system.files import write_text
from autosample.system.tables import Printed, as_markdown, make_table

if TYPE_CHECKING:
    from rich.table import Table

_NOTE = "_autosample_reason"


@dataclass(frozen=True)
class Row:
    """One layer. Sizes in bytes count everything that a file must hold, bias included.

    Attributes:
        name, kind: Name and class of the layer.
        method: The preset, or `dense`.
        note: Why the layer is dense, or the ratio it got if that differs.
        dense_params, stored_params: Count of weights and biases, dense and stored.
        dense_bytes, stored_bytes: The same in bytes, with offsets at the bits they need.
        ratio: Dense weights divided by stored numbers (weights only).
        position_bits: Bits of all offsets, selections and learners of signs.
        multiplicity: Average number of weights per element of the summary.
        macs: Multiply-adds of one forward pass as a dense layer, or `None` without an example.
        fit_error: `‖W − Ŵ‖/‖W‖` after a warm start.
        plan: How a deployed layer is computed.
        multiplications, additions: Of one forward pass, by the method's definition, norms and biases not counted; as
            many as `macs` for a dense layer. `None` without an example, and for deployed layers that reuse work.
        coded_bytes: `stored_bytes` with `compression="huffman"`; the same where there are no values, or no gain.
        adders, weight_bits, activation_bits: Energy of one forward pass; see `autosample.model.energy`.
    """

    name: str
    kind: str
    method: str
    note: str
    dense_params: int
    stored_params: int
    dense_bytes: int
    stored_bytes: int
    ratio: float
    position_bits: int
    multiplicity: float
    macs: int | None = None
    fit_error: float | None = None
    plan: str = ""
    multiplications: int | None = None
    additions: int | None = None
    coded_bytes: int = 0
    adders: int | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """One row per layer; the last one, `(rest)`, is everything but convolutions and linear layers.

    Attributes:
        rows: The rows.
        budget: The budget in bytes or milliseconds that the model was converted with, and what was reached.
    """

    rows: tuple[Row, ...]
    budget: Budget | None = None

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense model."""
        return sum(row.dense_bytes for row in self.rows)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the saved model, without the file's header."""
        return sum(row.stored_bytes for row in self.rows)

    @property
    def coded_bytes(self) -> int:
        """Bytes of the model saved with `compression="huffman"`, without the file's header."""
        return sum(row.coded_bytes for row in self.rows)

    @property
    def energy(self) -> Energy | None:
        """Energy of one forward pass of all convolutions and linear layers.

        `None` without an example, and where that of a layer is not known.
        """
        if any(row.adders is None and row.macs for row in self.rows[:-1]):
            return None
        costs = [(r.adders, r.weight_bits or 0, r.activation_bits or 0) for r in self.rows if r.adders is not None]
        return Energy(*map(sum, zip(*costs, strict=True))) if costs else None

    @property
    def dense_params(self) -> int:
        """Parameters and buffers of the dense model."""
        return sum(row.dense_params for row in self.rows)

    @property
    def stored_params(self) -> int:
        """Parameters and buffers that are stored."""
        return sum(row.stored_params for row in self.rows)

    @property
    def ratio(self) -> float:
        """`dense_bytes / stored_bytes` of the whole model."""
        return self.dense_bytes / self.stored_bytes if self.stored_bytes else 1.0

    @property
    def macs(self) -> int | None:
        """Multiply-adds of one forward pass [MACs], or `None` without an example."""
        counts = [row.macs for row in self.rows if row.macs is not None]
        return sum(counts) if counts else None

    @property
    def multiplications(self) -> int | None:
        """Multiplications of one forward pass, or `None` without an example or for a deployed model."""
        return _summed([row.multiplications for row in self.rows])

    @property
    def additions(self) -> int | None:
        """Additions of one forward pass, or `None` likewise."""
        return _summed([row.additions for row in self.rows])

    @property
    def converted(self) -> tuple[Row, ...]:
        """Rows of compressed layers."""
        return tuple(row for row in self.rows if row.method not in ("dense", ""))

    def total(self) -> Row:
        """The sum of all rows."""
        served = sum(row.multiplicity * row.stored_params for row in self.converted)
        return Row(
            name="total",
            kind="",
            method="",
            note=f"{len(self.converted)} of {len(self.rows) - 1} layers compressed",
            dense_params=self.dense_params,
            stored_params=self.stored_params,
            dense_bytes=self.dense_bytes,
            stored_bytes=self.stored_bytes,
            ratio=self.ratio,
            position_bits=sum(row.position_bits for row in self.rows),
            multiplicity=served / sum(row.stored_params for row in self.converted) if self.converted else 1.0,
            macs=self.macs,
            multiplications=self.multiplications,
            additions=self.additions,
            coded_bytes=self.coded_bytes,
            **(asdict(self.energy) if self.energy else {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `rows`, `total`, and `budget` if there was one."""
        budget = {"budget": asdict(self.budget)} if self.budget else {}
        return {"rows": [asdict(row) for row in self.rows], "total": asdict(self.total()), **budget}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def to_csv(self) -> str:
        """One line per layer and one for the total, under a header."""
        out = io.StringIO()
        writer = csv.DictWriter(out, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in (*self.rows, self.total()))
        return out.getvalue()

    def to_markdown(self) -> str:
        """A Markdown table of the main columns."""
        heads, rows, last = self._table()
        return as_markdown(heads, [*rows, last], left=2)

    def __repr__(self) -> str:
        sizes = f"{self.dense_bytes:,} bytes dense, {self.stored_bytes:,} stored, {self.ratio:.2f} times smaller"
        asked = f"; {self.budget}" if self.budget else ""
        return f"<Report: {len(self.converted)} of {len(self.rows) - 1} layers compressed, {sizes}{asked}>"

    def _note(self) -> str:
        saved, cost = self.stored_bytes - self.coded_bytes, self.energy
        told = [str(self.budget)] if self.budget else []
        told += [f'{self.coded_bytes:,} bytes with compression="huffman"'] if saved else []
        if cost:
            reads = f"{cost.weight_bits:.3g} bits of stored numbers, {cost.activation_bits:.3g} of inputs"
            told.append(f"energy: {cost.adders:.3g} full adders, reads of {reads}")
        return "\n".join(told)

    def __rich__(self) -> "Table":
        heads, rows, last = self._table()
        return make_table(heads, rows, left=_LEFT, last=last)

    def _table(self) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
        """Heads, cells and totals; multiplications and additions are told apart where these differ."""
        apart = any(row.multiplications != row.additions for row in self.rows)
        place = _HEADS.index("MACs") + 1
        heads = (*_HEADS[:place], *(("mult.", "add.") if apart else ()), *_HEADS[place:])
        every = [_cells(row, place if apart else None) for row in (*self.rows, self.total())]
        return heads, every[:-1], every[-1]


_LEFT = ("layer", "method", "plan", "note")
_HEADS = ("layer", "method", "weights", "stored", "bytes", "ratio", "uses", "MACs", "fit error", "plan", "note")


def _cells(row: Row, place: int | None = None) -> list[str]:
    """The cells of a row; with `place`, its multiplications and additions come there."""
    macs = "" if row.macs is None else f"{row.macs:,}"
    fit = "" if row.fit_error is None else f"{row.fit_error:.3f}"
    uses = f"{row.multiplicity:.1f}" if row.method not in ("dense", "") or row.name == "total" else ""
    sizes = [f"{row.dense_params:,}", f"{row.stored_params:,}", f"{row.stored_bytes:,}", f"{row.ratio:.2f}"]
    cells = [row.name or "(itself)", row.method, *sizes, uses, macs, fit, row.plan, row.note]
    if place is not None:
        cells[place:place] = ["" if n is None else f"{n:,}" for n in (row.multiplications, row.additions)]
    return cells


def _summed(counts: list[int | None]) -> int | None:
    """The sum, if all numbers are known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def note_reason(layer: nn.Module, reason: str) -> None:
    """Note why a layer stays dense, for later reports."""
    setattr(layer, _NOTE, reason)


def reasons(model: nn.Module) -> dict[str, str]:
    """Why layers stayed dense, by name."""
    return {name: vars(layer)[_NOTE] for name, layer in model.named_modules() if _NOTE in vars(layer)}


def report(model: nn.Module, example: Tensor | tuple | None = None, *, coded: bool = True) -> Report:
    """Report what a model stores and computes, per layer and in total. Multiply-adds need an example.

    Args:
        model: A model or a single layer, converted or not.
        example: An input (or a tuple of inputs) for one forward pass in evaluation mode without gradients.
        coded: Measure `coded_bytes`, which takes a second for a million packed numbers; otherwise they are the stored
            bytes.

    Raises:
        ConversionError: `model` or `example` is something else, or the model cannot be called with the example.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"report needs a torch module, got {model!r:.80}: pass the model itself")
    if not (example is None or isinstance(example, Tensor) or _has_tensor(example)):
        raise ConversionError(f"report needs an example input, got {example!r:.80}: pass torch.randn(1, 3, 224, 224)")
    macs = count_operations(model, example) if example is not None else {}
    state, full = compact_state(model), full_types(model)
    codes = coded_sizes(model) if coded else {}
    wide = {name: t.numel() * full.get(name, t.dtype).itemsize for name, t in state.items()}  # before any rounding
    layers = {name: layer for name, layer in outer_modules(model) if isinstance(layer, LAYERS)}
    owned: dict[str, dict[str, Tensor]] = {name: {} for name in layers}
    sizes: dict[str, dict[str, int]] = {}
    for name in sorted(layers, key=len, reverse=True):  # the innermost layer takes its tensors first
        prefix = f"{name}." if name else ""
        owned[name] = {key[len(prefix) :]: state.pop(key) for key in list(state) if key.startswith(prefix)}
        sizes[name] = {key: wide.pop(prefix + key) for key in owned[name]}
    rows = [_counted(_row(name, layer, owned[name], sizes[name]), macs.get(name)) for name, layer in layers.items()]
    rows = [_priced(row, layers[row.name], owned[row.name], codes) for row in rows]
    plans = {row.name: row.plan for row in getattr(getattr(model, "deployment", None), "rows", ())}
    rows = [
        replace(r, plan=plans[r.name].kind, note=r.note or plans[r.name].reason) if r.name in plans else r for r in rows
    ]
    rest, size = sum(t.numel() for t in state.values()), sum(t.nbytes for t in state.values())
    dense = sum(wide.values())
    other = Row("(rest)", "", "", "norms, other layers", rest, rest, dense, size, 1.0, 0, 1.0)
    return Report((*rows, replace(_counted(other, macs.get(None)), coded_bytes=size)))


def _priced(row: Row, layer: nn.Module, tensors: Mapping[str, Tensor], coded: Mapping[str, int]) -> Row:
    """A row with its coded bytes and its energy."""
    prefix = f"{row.name}." if row.name else ""
    size = sum(coded.get(prefix + key, tensor.nbytes) for key, tensor in tensors.items())
    cost = layer_energy(layer, row.macs)
    return replace(row, coded_bytes=size, **(asdict(cost) if cost else {}))


def _has_tensor(example: object) -> bool:
    return isinstance(example, tuple) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(example))


def _counted(row: Row, found: Operations | None) -> Row:
    """The row with its operations; how much a deployed layer adds up is not known."""
    if found is None:
        return row
    if row.method == "deployed":
        return replace(row, macs=found.macs)
    return replace(row, macs=found.macs, multiplications=found.multiplications, additions=found.additions)


def _row(name: str, layer: nn.Module, tensors: dict[str, Tensor], wide: dict[str, int]) -> Row:
    kind, size = type(layer).__name__, sum(t.nbytes for t in tensors.values())
    numbers = sum(t.numel() for t in tensors.values())
    if isinstance(layer, Deployed):
        dense = layer.dense_weights + layer.other_numbers
        return Row(name, kind, "deployed", "", dense, numbers, 4 * dense, size, layer.ratio, 0, 1.0)
    note = getattr(layer, _NOTE, "")
    if not isinstance(layer, Compressed):
        return Row(name, kind, "dense", note, numbers, numbers, sum(wide.values()), size, 1.0, 0, 1.0)
    facts = layer.facts()
    others = [key for key in tensors if not layer.stands_for_weight(key)]  # biases and others
    extra = sum(tensors[key].numel() for key in others)
    width = getattr(layer, layer.coded[0]).element_size()
    return Row(
        name=name,
        kind=kind,
        method=facts.method,
        note="; ".join(filter(None, (*facts.notes, note))),
        dense_params=facts.dense + extra,
        stored_params=facts.stored + extra,
        dense_bytes=facts.dense * width + sum(wide[key] for key in others),
        stored_bytes=size,
        ratio=facts.dense / facts.stored,
        position_bits=facts.position_bits,
        multiplicity=facts.multiplicity,
        fit_error=layer.fit_error,
    )


def save_report(result: Report, folder: Path) -> None:
    """Write `report.json`, `report.csv` and `report.md` into a folder."""
    for suffix, text in (("json", result.to_json()), ("csv", result.to_csv()), ("md", result.to_markdown())):
        write_text(folder / f"report.{suffix}", text)
