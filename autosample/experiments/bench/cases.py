"""The workloads: plain data in named suites, each with its required speed-up."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from autosample.errors import ConfigError, hint
from autosample.sampling.presets import PRESETS
from autosample.sampling.upgrade import upgraded

Kind = Literal["layer", "model", "training"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One row of a suite.

    Attributes:
        name: Name of the row.
        kind: A single convolution, the forward pass of a whole model, or a training step of a model.
        spec: Fields of the `Spec`, including `preset`.
        input: Shape of one example, without the batch.
        batch: Batch size.
        layer: Arguments of `torch.nn.Linear`, or of `Conv1d` or `Conv2d`, which `input` decides; without bias.
        model: Name of a model, with 10 classes.
        include: Patterns of the layers to convert; empty for the default ones.
        targets: Required speed-up over the fastest dense side with one thread, with two, and so on; the last value
            also applies to more threads. Empty if no speed-up is required.
        aim: Excellent speed-up.
        sides: Measure only these sides; empty for all.
        every: Compile all dense variants of a model, not only those with folded norms.
        sweep: Quantity that a growth suite varies, such as `N`; `at` is its value in this row.
    """

    name: str
    kind: Kind
    spec: Mapping[str, Any]
    input: tuple[int, ...]
    batch: int = 1
    layer: Mapping[str, int] = field(default_factory=dict)
    model: str = ""
    include: tuple[str, ...] = ()
    targets: tuple[float, ...] = ()
    aim: float | None = None
    sides: tuple[str, ...] = ()
    every: bool = True
    sweep: str = ""
    at: float = 0

    def target(self, threads: int) -> float | None:
        """The required speed-up with this number of threads, or `None`."""
        return self.targets[min(threads, len(self.targets)) - 1] if self.targets else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Workload":
        """The inverse of `to_dict`, also for data read from JSON, and for records of version 0.1.0."""
        if "summary" in data:
            rule = PRESETS[data["summary"]["preset"]].get("rule")
            data = {**data, "spec": upgraded(data["summary"], rule)}
        names = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in names}
        return cls(**values)


def wsnet(spatial: int, channel: int) -> dict[str, Any]:
    """The spec of WSNet with the paper's compactness. Windows of `K` taps start `K // spatial` rows apart."""
    return {"preset": "wsnet", "options": {"spatial": spatial, "channel": channel}}


def free(ratio: float, grid: int) -> dict[str, Any]:
    """A spec with four windows per filter, at random offsets on a grid."""
    return {"preset": "random", "ratio": ratio, "windows": 4, "grid": grid}


def conv(m: int, n: int, k: int, stride: int = 1, padding: int = 0) -> dict[str, int]:
    """Arguments of a convolution from `m` to `n` channels with `k` taps per axis."""
    return {"in_channels": m, "out_channels": n, "kernel_size": k, "stride": stride, "padding": padding}


def _layer(
    name: str, layer: dict[str, int], size: tuple[int, ...], spec: dict, goal: tuple[float, float], **options: Any
) -> Workload:
    shape, (target, aim) = (layer["in_channels"], *size), goal
    return Workload(name=name, kind="layer", layer=layer, input=shape, spec=spec, targets=(target,), aim=aim, **options)


def _layers() -> list[Workload]:
    small = conv(32, 64, 32)
    square = conv(128, 128, 3, padding=1)
    return [
        _layer("conv1d-s4c4", conv(64, 128, 32), (8192,), wsnet(8, 4), (12, 20)),
        _layer("conv1d-s1c8", conv(64, 128, 32), (8192,), wsnet(32, 8), (20, 40)),
        _layer("conv1d-wide-s2c8", conv(256, 512, 16), (2048,), wsnet(8, 8), (27, 45)),
        _layer("conv1d-stride2-s2c4", conv(32, 64, 32, stride=2), (16384,), wsnet(16, 4), (6, 12)),
        _layer("conv1d-free-grid4", small, (4096,), free(100, 4), (6, 12)),
        _layer("conv1d-free-grid1", small, (4096,), free(100, 1), (3.5, 8)),
        _layer("conv1d-free-wide-grid2", conv(128, 256, 8), (1024,), free(32, 2), (3, 6)),
        _layer("conv2d-s3c2", square, (28, 28), wsnet(3, 2), (3, 5)),
        _layer("conv2d-s3c2-batch16", square, (28, 28), wsnet(3, 2), (3, 5), batch=16),
    ]


_SOUND: dict[str, Any] = {
    "model": "soundnet8",
    "spec": wsnet(8, 8),
    "include": ("re:stages.*",),
    "input": (1, 110250),
}


def _models() -> list[Workload]:
    images: dict[str, Any] = {"model": "resnet18", "spec": wsnet(3, 2), "input": (3, 224, 224)}
    images |= {"targets": (2.2, 1.8), "aim": 3.5}
    return [
        Workload(name="soundnet8-s8c8", kind="model", **_SOUND, targets=(9,), aim=16),
        Workload(name="resnet18", kind="model", **images),
        Workload(name="resnet18-batch16", kind="model", **images, batch=16),
    ]


def _training() -> list[Workload]:
    return [Workload(name="soundnet8-s8c8-step", kind="training", **_SOUND, batch=16, targets=(2,), aim=5)]


_FAMILIES = {
    "resnet18": 224, "resnext50_32x4d": 128, "vgg11_bn": 128, "densenet121": 128, "hrnet_w18_small": 128,
    "efficientnet_b0": 160, "mobilenetv3_large_100": 160, "regnety_004": 160, "ghostnet_100": 160,
    "convnext_atto": 160, "vit_tiny_patch16_224": 224, "mixer_s32_224": 224,
}  # fmt: skip


def _timm() -> list[Workload]:
    spec = {"preset": "autosample", "ratio": 8}
    common: dict[str, Any] = {"kind": "model", "spec": spec, "targets": (0.95,), "aim": 1.0, "every": False}
    return [Workload(name=m, model=m, input=(3, size, size), **common) for m, size in _FAMILIES.items()]


def _folded() -> list[Workload]:
    """Layers, nets and training steps of the preset `folded`, which has one ratio for all kinds of layers."""
    square, long = conv(256, 256, 3, padding=1), conv(256, 512, 16)
    lone: dict[str, Any] = {"preset": "folded", "ratio": 8, "options": {"overlap": 1}}
    overlapping: dict[str, Any] = {"preset": "folded", "ratio": 32, "windows": 8, "options": {"overlap": 4}}
    layers = [
        _layer("folded-3x3", square, (14, 14), lone, (6, 7.5)),
        _layer("folded-1x1-wide", conv(256, 1024, 1), (14, 14), lone, (5, 7)),
        _layer("folded-1x1-narrow", conv(512, 128, 1), (28, 28), lone, (4, 6.5)),
        _layer("folded-conv1d", long, (2048,), lone, (6.5, 8)),
        _layer("folded-conv1d-overlap", long, (2048,), overlapping, (20, 30)),
    ]
    linear = Workload(
        name="folded-linear", kind="layer", layer={"in_features": 768, "out_features": 3072}, input=(196, 768),
        spec=lone, targets=(7,), aim=8,
    )  # fmt: skip
    spec = {"preset": "folded", "ratio": 8}
    images: dict[str, Any] = {"kind": "model", "spec": spec, "input": (3, 224, 224), "every": False}
    # small layers on large maps have fewer numbers then, and so less work
    even: dict[str, Any] = images | {"spec": spec | {"share": "even"}}
    at_six: dict[str, Any] = images | {"spec": {"preset": "folded", "ratio": 6}}
    nets = [
        Workload(name="folded-resnet18", model="resnet18", targets=(3.5,), aim=6, **images),
        Workload(name="folded-resnet18-even", model="resnet18", targets=(3.5,), aim=6, **even),
        Workload(name="folded-resnet18-batch16", model="resnet18", batch=16, targets=(2.5,), aim=4.5, **images),
        Workload(name="folded-resnet50", model="resnet50", targets=(3.5,), aim=6, **images),
        Workload(name="folded-resnet50-even", model="resnet50", targets=(3.5,), aim=6, **even),
        Workload(name="folded-resnet50-batch16", model="resnet50", batch=16, targets=(2.5,), aim=4.5, **images),
        Workload(name="folded-vit_tiny", model="vit_tiny_patch16_224", targets=(1.8,), aim=2.5, **at_six),
        Workload(name="folded-convnext_atto", model="convnext_atto", targets=(1.5,), aim=2, **at_six),
        Workload(name="folded-mobilenetv3", model="mobilenetv3_large_100", targets=(1,), aim=1.3, **at_six),
        Workload(name="folded-efficientnet_b0", model="efficientnet_b0", targets=(1,), aim=1.3, **at_six),
    ]
    sound: dict[str, Any] = {"model": "soundnet8", "spec": {"preset": "folded", "ratio": 48}, "input": (1, 110250)}
    nets.append(Workload(name="folded-soundnet8", kind="model", targets=(10,), aim=16, **sound))
    small: dict[str, Any] = {"model": "resnet18", "spec": spec, "input": (3, 64, 64), "batch": 32}
    steps = [
        Workload(name="folded-resnet18-step", kind="training", targets=(1 / 0.6,), aim=1 / 0.35, **small),
        Workload(name="folded-soundnet8-step", kind="training", batch=16, targets=(5,), aim=1 / 0.12, **sound),
    ]
    return [*layers, linear, *nets, *steps]


def _growth() -> list[Workload]:
    """A layer from 32 to 128 channels with 32 taps on 8192 samples at ratio 16; each sweep varies one quantity."""
    rows = []
    spans = {"N": (32, 64, 128, 256, 512), "T": (1024, 4096, 16384, 65536), "ratio": (4, 8, 16, 32, 64, 128)}
    sides = ("dense", "reuse", "fused", "deployed")
    for preset in ("wsnet", "random"):
        for sweep, values in spans.items():
            for at in values:
                is_now = {"N": 128, "T": 8192, "ratio": 16} | {sweep: at}
                # the grid stays the same, and so does the number of sums
                spec = wsnet(4, is_now["ratio"] // 4) if preset == "wsnet" else free(is_now["ratio"], 4)
                name, shape = f"{preset}-{sweep}{at}", (32, is_now["T"])
                layer = conv(32, is_now["N"], 32)
                row = Workload(name=name, kind="layer", layer=layer, input=shape, spec=spec, sides=sides)
                rows.append(replace(row, sweep=f"{preset} {sweep}", at=at))
    return rows


SUITES: dict[str, Callable[[], list[Workload]]] = {
    "layers": _layers,
    "models": _models,
    "training": _training,
    "timm": _timm,
    "folded": _folded,
    "growth": _growth,
}


def suite(name: str) -> list[Workload]:
    """The workloads of a suite.

    Raises:
        ConfigError: There is no suite of that name.
    """
    if name not in SUITES:
        raise ConfigError(f'no suite is called "{name}": {hint(name, (*SUITES, "input"))}')
    return SUITES[name]()


def own(model: str, preset: str, ratio: float, shape: Iterable[int]) -> list[Workload]:
    """The workload of a user's own model."""
    spec = {"preset": preset, "ratio": ratio}
    return [Workload(name=model, kind="model", model=model, spec=spec, input=tuple(shape))]


def chosen(rows: list[Workload], only: Iterable[str] | None) -> list[Workload]:
    """The rows with these names; all rows if no names are given.

    Raises:
        ConfigError: No row has a given name.
    """
    if only is not None:
        names = [row.name for row in rows]
        for name in only:
            if name not in names:
                raise ConfigError(f'no workload is called "{name}": {hint(name, names)}')
        rows = [row for row in rows if row.name in only]
    return rows


def altered(row: Workload, batch: int | None, usual: bool) -> Workload:
    """A row with another batch size. It loses its targets with another batch, or if it is not measured as `usual`."""
    if batch is None and usual:
        return row
    return replace(row, batch=batch or row.batch, targets=(), aim=None)
