"""From a YAML file to a grid. Mistakes are found before the first run where possible, as one line."""

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from autosample.errors import ConfigError, hint
from autosample.experiments.grid import Cell, Grid, Size
from autosample.experiments.identity import NARROW, UNCOMPRESSED
from autosample.experiments.rivals import RIVALS
from autosample.model.quantize import check_quantization
from autosample.model.recipe import BUDGETS, FLAT, Recipe
from autosample.sampling.changes import COMPACTNESS
from autosample.sampling.moved import moved
from autosample.sampling.presets import PRESETS
from autosample.sampling.rules import RULES
from autosample.sampling.spec import Spec, spec
from autosample.system.configs import read

#: Folders of the grids that come with autosample.
KINDS = ("ablation", "research")

_KEYS = {
    "name": "", "title": "", "data": None, "model": None, "train": {}, "presets": None, "ratios": [], "net_ratios": [],
    "bytes": [], "latencies": [], "multiplications": [], "like": [], "seeds": 3, "folds": None, "holdout": 0.0,
    "test": True, "latency": False, "tolerance": 0.01, "compare": "",
}  # fmt: skip
# keys of a model entry: those of a recipe without its spec; two fields have shorter names here
_SHORT = {"model": "name", "model_args": "args"}
_MODEL_KEYS = {_SHORT.get(f.name, f.name): f.name for f in fields(Recipe) if f.name not in ("spec", "planned_bits")}
_SIZES = {
    "ratios": "ratio", "net_ratios": "net_ratio", "bytes": "bytes", "latencies": "latency",
    "multiplications": "multiplications", "like": "like",
}  # fmt: skip
# sizes of methods that have a ratio, and what others lack for them
_OF_RATIOS = {
    "ratio": "layer ratio, got ratios", "latency": "latency to search for, got latencies",
    "multiplications": "multiplications to search for, got multiplications",
}  # fmt: skip
# keys of a presets entry beside the fields of the spec
_OF_METHODS = ("preset", "label", "train", "overrides", "quantize", "planned_bits")
_OF_SPECS = tuple(f.name for f in fields(Spec))


def read_grid(path: str | Path, root: str | None = None, **changes: Any) -> Grid:
    """Read a grid from a YAML file.

    Args:
        path: A file, or the name of a bundled grid, such as `ablation/quick`.
        root: Data folder; replaces the file's.
        changes: Keys of the grid; they replace the file's.

    Raises:
        ConfigError, SpecError, DataError: The file, or a key or value in it, is not usable.
    """
    loaded = read(path, *KINDS)
    if root is not None and isinstance(loaded.get("data"), dict | list):
        loaded["data"] = [{**d, "root": root} if isinstance(d, dict) else d for d in _list(loaded["data"])]
    return make_grid({"name": Path(path).stem, **loaded, **changes})


def make_grid(config: Mapping[str, Any]) -> Grid:
    """Make a grid from plain data, with the errors of `read_grid`. The grid `ablation/quick` is an example."""
    _known(config, _KEYS, "a grid")
    c = {**_KEYS, **config}
    for key in ("data", "model", "presets"):
        if not c[key]:
            raise ConfigError(f"a grid needs {key}, got none: see ablation/quick for an example")
    for key, low, high in (("holdout", 0, 1), ("tolerance", 0, 1)):
        if not (_is_number(c[key]) and low <= c[key] < high):
            raise ConfigError(f"{key} must be a share in [0, 1), got {c[key]}: 0.2 is a fifth")
    for key in ("test", "latency"):
        if not isinstance(c[key], bool):
            raise ConfigError(f"{key} must be true or false, got {c[key]}")
    if not c["test"] and not c["holdout"]:
        raise ConfigError("test: false needs held-out data, got holdout 0: write holdout: 0.2")
    sizes, methods = _sizes(c), [_method(entry) for entry in _list(c["presets"])]
    train = _train(c["train"])
    repeats = list(itertools.product(_seeds(c["seeds"]), _folds(c["folds"])))
    cells = []
    for data, model, (seed, fold) in itertools.product(_list(c["data"]), _list(c["model"]), repeats):
        checked, net = _data(data, c, seed, fold), _model(model)
        for method, size in _pairs(methods, sizes):
            common = {"seed": seed, "fold": fold, **{k: c[k] for k in ("holdout", "test", "latency", "tolerance")}}
            cells.append(_cell(checked, net, method, size, train, common))
    # seed by seed: a grid that is stopped early has all methods for the finished seeds
    cells.sort(key=lambda cell: repeats.index(cell.repetition))
    _check_twice(cells)
    labels = [method["label"] for method in methods]
    return Grid(str(c["name"]), str(c["title"] or c["name"]), tuple(cells), _compared(c["compare"], labels))


def _compared(value: Any, labels: list[str]) -> tuple[str, ...]:
    """The labels to test against all others: by default those of the two presets that are advised."""
    compare = _list(value) if value else [name for name in ("autosample", "folded") if name in labels] or [labels[-1]]
    for label in compare:
        if label not in labels:
            raise ConfigError(f'compare must be labels of presets, got "{label}": {hint(str(label), labels)}')
    return tuple(compare)


def _known(given: Any, keys: Sequence[str] | Mapping[str, Any], what: str) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{what} must be a mapping, got {given!r}: write KEY: VALUE")
    for key in given:
        if key not in keys:
            raise ConfigError(f'{what} has no key "{key}": {moved(str(key), given[key]) or hint(str(key), keys)}')


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seeds(value: Any) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else _list(value)
    if not seeds or not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds):
        raise ConfigError(f"seeds must be a count or a list of whole numbers, got {value}: write seeds: 3")
    return seeds


def _folds(value: Any) -> list[int | None]:
    folds: list[int | None] = [None] if value is None else _list(value)
    if not folds or not all(f is None or (isinstance(f, int) and not isinstance(f, bool)) for f in folds):
        raise ConfigError(f"folds must be a list of whole numbers, got {value}: write folds: [1, 2, 3, 4, 5]")
    return folds


def _sizes(c: Mapping[str, Any]) -> list[Size]:
    found = []
    for key, kind in _SIZES.items():
        for value in _list(c[key]):
            if kind == "like":
                _known(value, (*_OF_SPECS, "quantize"), "like")
                if "preset" not in value:
                    raise ConfigError(f"like needs a preset, got {value}: write like: [{{preset: random, ratio: 16}}]")
                size = Size(kind, {**value, "quantize": _quantize(value.get("quantize"), value["preset"])})
                spec(size.spec)
                value = size.value if size.quantize else size.spec
            elif kind == "latency":
                if not (_is_number(value) and 0 < value < math.inf):
                    raise ConfigError(f"latencies must be milliseconds above 0, got {value}: write latencies: [2.0]")
            elif not _is_number(value) or value < 1:
                raise ConfigError(f"{key} must be numbers of at least 1, got {value}: write {key}: [8, 64]")
            found.append(Size(kind, value))  # pyright: ignore[reportArgumentType]
    return found


def _method(entry: Any) -> dict[str, Any]:
    """A row of the table: label, spec without a size, overrides of layers, bits, and its own training options."""
    entry = {"preset": entry} if isinstance(entry, str) else entry
    _known(entry, (*_OF_METHODS, *_OF_SPECS), "an entry of presets")
    preset, known = entry.get("preset"), {*PRESETS, *RULES, *UNCOMPRESSED}
    if preset not in known:
        raise ConfigError(f'no preset is called "{preset}": {hint(str(preset), known)}')
    changes = {k: v for k, v in entry.items() if k not in _OF_METHODS}
    if preset in UNCOMPRESSED and (changes or entry.get("overrides")):
        got = ", ".join(changes) or "overrides"
        raise ConfigError(f"{preset} has no fields to change, got {got}: remove them")
    if preset not in UNCOMPRESSED:
        spec(preset, **changes)
    for name in ("ratio", *COMPACTNESS):
        if name in changes or name in changes.get("options", {}):
            raise ConfigError(f"sizes are keys of the grid, got {name} in {preset}: use ratios, net_ratios or like")
    quantize = _quantize(entry.get("quantize"), preset)
    bits = entry.get("planned_bits", quantize.get("bits", 32) if preset not in UNCOMPRESSED else 32)
    return {
        "label": str(entry.get("label") or (f"{preset} {quantize['bits']} bits" if quantize else preset)),
        "spec": {"preset": preset, **changes} if changes else preset,
        "planned_bits": bits,
        "overrides": dict(entry.get("overrides") or {}),
        "quantize": quantize,
        "train": _train(entry.get("train") or {}),
    }


def _quantize(given: Any, preset: str) -> dict[str, Any]:
    """Settings of quantisation: arguments of `quantize_`, the `start` of `FakeQuantize`, and whether it is used.

    Layers that sample always train with their levels; others only with `train`.
    """
    from autosample.training import FakeQuantize

    if given is None:
        return {}
    _known(given, ("bits", "method", "rest", "vector", "start", "train"), "quantize")
    how = (given.get("bits", 8), given.get("method", "linear"), "sampled", given.get("rest"))
    check_quantization(*how, given.get("vector", 1))
    FakeQuantize(start=given.get("start", 0.7))
    trains = given.get("train", preset not in UNCOMPRESSED)
    if not isinstance(trains, bool) or trains < (preset not in UNCOMPRESSED):
        raise ConfigError(f"train of quantize must be true, or false in dense nets, got {trains}: leave it out")
    if "start" in given and not trains:
        raise ConfigError(
            f"{preset} is rounded after training, got start {given['start']}: add train: true, or remove it"
        )
    kept = {name: value for name, value in given.items() if name != "train"}
    return {"bits": 8, **kept, **({"train": True} if trains and preset in UNCOMPRESSED else {})}


def _train(given: Any) -> dict[str, Any]:
    """Arguments of the training: `epochs`, `precision`, `teacher_epochs`, and those of `Classifier` that are free."""
    from autosample.training import Classifier
    from autosample.training.optim import rehearse

    usual = {k: p.default for k, p in inspect.signature(Classifier).parameters.items()}
    free = (name for name in usual if name not in (*FLAT, *BUDGETS, "seed"))
    _known(given, ("epochs", "precision", "teacher_epochs", *free), "train")
    for name, least in (("epochs", 0 if given.get("warm_start") else 1), ("teacher_epochs", 1)):
        if name in given and not (_is_number(given[name]) and isinstance(given[name], int) and given[name] >= least):
            raise ConfigError(f"{name} must be at least {least}, got {given[name]}: leave it out for the default")
    rehearse({**usual, **given})
    return dict(given)


def _data(entry: Any, c: Mapping[str, Any], seed: int, fold: int | None) -> tuple[str, dict[str, Any]]:
    """Class and arguments of the data. They are built once as a check, but nothing is read."""
    from autosample.experiments.run import make_data

    if not isinstance(entry, Mapping) or "class" not in entry:
        raise ConfigError(f"data must name a class, got {entry}: write data: {{class: Digits}}")
    args = {k: v for k, v in entry.items() if k != "class"}
    for key, instead in (("seed", "seeds"), ("fold", "folds"), ("val_fraction", "holdout")):
        if key in args:
            raise ConfigError(f"data has no key {key}, got {args[key]}: use {instead} of the grid")
    make_data(entry["class"], args, seed=seed, fold=fold, holdout=c["holdout"])
    return entry["class"], args


def _model(entry: Any) -> Recipe:
    """The dense net, with the overrides that methods use when they compress it."""
    import torch

    entry = {"name": entry} if isinstance(entry, str) else entry
    _known(entry, _MODEL_KEYS, "model")
    if "name" not in entry:
        raise ConfigError("model needs a name, got none: write model: {name: digitnet}")
    net = Recipe(**{_MODEL_KEYS[key]: value for key, value in entry.items()}, spec="dense")
    with torch.device("meta"):
        replace(net, model_args={**(net.model_args or {}), "pretrained": False}).bare()
    return net


def _pairs(methods: Sequence[dict[str, Any]], sizes: Sequence[Size]) -> Iterator[tuple[dict[str, Any], Size | None]]:
    """Every method at every size; the dense net has one size only."""
    for method in methods:
        given = method["spec"]
        if given == "dense":
            yield method, None
            continue
        if not sizes:
            raise ConfigError(
                f"{method['label']} needs a size, got none: write ratios, net_ratios, bytes, latencies, "
                "multiplications or like"
            )
        for size in sizes:
            if given in UNCOMPRESSED and size.kind in _OF_RATIOS:
                raise ConfigError(f"{given} has no {_OF_RATIOS[size.kind]}: use net_ratios, bytes or like")
            if size.kind == "ratio":
                spec(given, ratio=size.value)
            yield method, size


def _cell(data: Any, net: Recipe, method: Mapping[str, Any], size: Size | None, train: Any, common: Any) -> Cell:
    train, given = {**train, **method["train"]}, net.model_args or {}
    starts = train.get("warm_start") or train.get("distill") or method["spec"] in tuple(RIVALS)
    starts = starts or (train.get("cluster_penalty") and method["spec"] not in UNCOMPRESSED)
    if starts and not (
        train.get("teacher_epochs") or train.get("teacher") or given.get("pretrained") or given.get("checkpoint_path")
    ):
        raise ConfigError(
            f"{method['label']} needs a trained dense net to start or learn from, got none: set teacher_epochs in train"
        )
    if method["spec"] == NARROW and train.get("teacher_epochs"):
        raise ConfigError(
            "narrow cannot start from the weights of a wider net, got teacher_epochs: set it in train of other presets"
        )
    overrides = {} if method["spec"] in UNCOMPRESSED else {**(net.overrides or {}), **method["overrides"]}
    told = {"spec": method["spec"], "planned_bits": method["planned_bits"], "overrides": overrides or None}
    return Cell(
        data=data[0],
        data_args=data[1],
        recipe=replace(net, **told),
        size=size,
        quantize=method["quantize"],
        train=train,
        label=method["label"],
        **common,
    )


def _check_twice(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.id, cell)) is not cell:
            raise ConfigError(f'"{cell.label}" and "{other.label}" are the same run: remove or change one')
    names: dict[tuple, str] = {}
    for cell in cells:
        if names.setdefault((*cell.group, cell.repetition), cell.id) != cell.id:
            raise ConfigError(f'two methods have the label "{cell.label}": give one its own label')
