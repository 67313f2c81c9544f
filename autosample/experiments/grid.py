"""The grid of an ablation, {data × model × preset × size × seed or fold}, as cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from typing import Any, Literal

from autosample.errors import ConfigError, hint
from autosample.experiments.identity import id_of, identity_of, recipe_identity, spec_identity
from autosample.model.recipe import Recipe

# arguments that say where data are and how to read them; they do not change the data
_PLACES = ("root", "cache_dir", "num_workers", "download", "resident")


@dataclass(frozen=True)
class Size:
    """The stored size that a net should have.

    Attributes:
        kind: `ratio`: the ratio of the spec. `net_ratio`: dense bytes divided by stored bytes, for the whole net.
            `bytes`: stored bytes of the whole net. `latency`: time of the deployed net for one example [ms], and
            `multiplications`: those for one example, as for `autosample.convert_`. `like`: a preset with its fields,
            and `quantize` as in rows; all methods get the bytes that it stores.
        value: A number; for `like` a mapping.
        ratio: The ratio of the spec that a latency was resolved to: it is measured once for all seeds and folds.
    """

    kind: Literal["ratio", "net_ratio", "bytes", "latency", "multiplications", "like"]
    value: Any
    ratio: float | None = None

    def __str__(self) -> str:
        if self.kind == "like":
            told = {k: v for k, v in self.spec.items() if k != "options"} | dict(self.spec.get("options", {}))
            words = [f"{'' if k == 'preset' else k + ' '}{v}" for k, v in told.items()]
            return " ".join([*words, f"{self.quantize['bits']} bits"] if self.quantize else words)
        unit = {
            "ratio": "{:g}x a layer", "net_ratio": "{:g}x", "bytes": "{:,g} bytes", "latency": "{:g} ms",
            "multiplications": "{:,.0f} multiplications",
        }[self.kind]  # fmt: skip
        return unit.format(self.value)

    @property
    def spec(self) -> dict[str, Any]:
        """The preset of `like`, with its fields."""
        return {name: value for name, value in self.value.items() if name != "quantize"}

    @property
    def quantize(self) -> dict[str, Any]:
        """How the numbers of `like` are quantised; empty for float32."""
        return self.value.get("quantize", {})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a grid: everything that decides its result.

    Attributes:
        data: Name in `autosample.data.DATASETS`, or the full path of a class.
        data_args: Arguments of the data, without those that depend on seed, fold and hold-out.
        recipe: The net and how its layers are compressed, without a size. Its spec is a preset with changes, `narrow`
            for the dense net with fewer channels, or one of `RIVALS`.
        size: Stored size of the net; `None` for dense.
        quantize: `bits`, `method` and `rest` of `quantize_`, `start` of `FakeQuantize`, and `train` if a net that
            samples nothing trains with its levels; empty for float32.
        seed: Seed of weights, order and augmentation, and of random offsets if the spec has no seed.
        fold: Test fold of the data, if they have folds.
        train: `epochs`, `precision`, and other arguments of `Classifier`.
        holdout: Share of the training data that is held out and scored at the end.
        test: Whether to read the test set, once, at the end.
        latency: Whether to time the deployed net at batch 1.
        tolerance: How far stored bytes may be from the size [share].
        label: Name in tables; it does not change the run.
    """

    data: str
    data_args: Mapping[str, Any]
    recipe: Recipe
    size: Size | None
    quantize: Mapping[str, Any]
    seed: int
    fold: int | None
    train: Mapping[str, Any]
    holdout: float
    test: bool
    latency: bool
    tolerance: float
    label: str

    @property
    def model(self) -> str:
        """Name of the net."""
        return self.recipe.model

    @property
    def preset(self) -> str:
        """Name of the preset, `narrow`, or one of `RIVALS`."""
        return self.recipe.preset

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The canonical configuration as plain data. Equal cells have equal ones; labels do not count."""
        kept = {name: value for name, value in vars(self).items() if name not in ("label", "identity", "id")}
        kept["recipe"] = recipe_identity(self.recipe, self.quantize.get("bits", 32))
        kept["data_args"] = {k: v for k, v in self.data_args.items() if k not in _PLACES}
        kept["size"] = {}
        if self.size is not None:
            like = self.size.kind == "like"
            kept["size"] = {self.size.kind: spec_identity(self.size.spec) if like else self.size.value}
            kept["size"] |= {"quantize": self.size.quantize} if like and self.size.quantize else {}
        return identity_of(kept)

    @cached_property
    def id(self) -> str:
        """Hash of the canonical configuration."""
        return id_of(self.identity)

    @property
    def name(self) -> str:
        """A file name: a readable part, then the hash."""
        size = f"-{self.size}" if self.size else ""
        fold = f"-fold{self.fold}" if self.fold is not None else ""
        readable = f"{self.data.rpartition('.')[2]}-{self.model}-{self.preset}{size}{fold}-seed{self.seed}"
        return "".join(c if c.isalnum() or c in "-._" else "_" for c in readable) + f"-{self.id}"

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Data, model, label and size: the same for cells that differ only by seed or fold."""
        return self.data.rpartition(".")[2], self.model, self.label, str(self.size or "")

    @property
    def repetition(self) -> tuple[int, int | None]:
        """Seed and fold: they tell the cells of a group apart."""
        return self.seed, self.fold


@dataclass(frozen=True)
class Grid:
    """All cells of an ablation, and how to compare them.

    Attributes:
        name: Name of the ablation and of its folder.
        title: Title of tables and pictures.
        cells: Cells in the order in which they run: seed by seed, so a grid that is stopped has complete seeds.
        compare: Labels of the methods that are tested against all others.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    compare: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The compared methods, in the order of the configuration."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    def only(self, patterns: list[str]) -> "Grid":
        """The cells that a pattern matches: by label (`random`), or by name (`*seed0*`) if it matches no label.

        Raises:
            ConfigError: A pattern matches nothing.
        """
        kept: set[str] = set()
        for pattern in patterns:
            # labels first: names contain the preset, so `*random*` would also match runs with other labels
            hits = {c.id for c in self.cells if fnmatch(c.label, pattern)}
            hits = hits or {c.id for c in self.cells if fnmatch(c.name, pattern)}
            if not hits:
                raise ConfigError(f'no run of {self.name} matches "{pattern}": {hint(pattern, self.labels)}')
            kept |= hits
        return Grid(self.name, self.title, tuple(c for c in self.cells if c.id in kept), self.compare)
