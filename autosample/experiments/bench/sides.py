"""The sides of a workload: all variants of dense torch, and autosample's ways to compute the same."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from autosample.deployment.deploy import deploy
from autosample.errors import one_line
from autosample.experiments.bench.cases import Workload
from autosample.model.convert import convert_layers_, harden_
from autosample.nn import Compressed, compressed_layers, execution
from autosample.nn.planning import layer_frame, layer_operands
from autosample.nn.running import Way
from autosample.reuse import fused
from autosample.reuse.after import After
from autosample.reuse.planner import variants
from autosample.reuse.plans import PLANS


@dataclass
class Side:
    """One way to compute a workload.

    Attributes:
        name: Name of the side; names of dense torch begin with `dense`.
        module: Module to call, not compiled.
        args: Arguments of the call; in training the input and the classes.
        compiled: Whether to compile the module with `torch.compile` first.
        train: Whether a call is a training step.
        way: How summary layers compute, as for `autosample.nn.execution`.
    """

    name: str
    module: nn.Module
    args: tuple[Tensor, ...]
    compiled: bool = False
    train: bool = False
    way: Way = "auto"

    @property
    def dense(self) -> bool:
        """Whether this is a baseline."""
        return self.name.startswith("dense")

    def start(self) -> Callable[[], Any]:
        """The function to time. It returns the outputs."""
        call = self._call()
        if self.way == "auto":
            return call

        def in_this_way() -> Any:
            with execution(self.way):
                return call()

        return in_this_way

    def _call(self) -> Callable[[], Any]:
        run = cast(nn.Module, torch.compile(self.module)) if self.compiled else self.module
        if not self.train:
            return lambda: run(*self.args)
        x, y = self.args
        optimizer = torch.optim.SGD(self.module.parameters(), lr=1e-3, momentum=0.9)

        @torch.enable_grad()
        def step() -> Tensor:
            optimizer.zero_grad()
            out = run(x)
            nn.functional.cross_entropy(out, y).backward()
            optimizer.step()
            return out.detach()

        return step


@dataclass
class Built:
    """The sides of a workload. The first is the baseline; all others must equal its outputs.

    Attributes:
        sides: Sides in the order of the tables.
        plan: Plan that `deploy` chose for each layer, as plain data.
        notes: Sides that were left out, with the reason.
        error: Why a side of autosample could not be built; empty if all were built.
    """

    sides: list[Side] = field(default_factory=list)
    plan: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""


def build(work: Workload, *, device: torch.device, dtype: torch.dtype, compiled: bool) -> Built:
    """Make the sides of a workload.

    Args:
        work: Workload.
        device, dtype: Device and type to compute with.
        compiled: Make sides with `torch.compile` too.

    Raises:
        AutosampleError: Its model, shape or spec is not usable.
    """
    torch.manual_seed(0)
    x = torch.randn(work.batch, *work.input).to(device, dtype)
    made = {"layer": _layer, "model": _model, "training": _training}[work.kind]
    built = made(work, x, device, dtype)
    if work.sides:
        built.sides = [side for side in built.sides if side.name in work.sides]
    elif compiled:
        built.sides = [*built.sides, *_compiled(built.sides, work)]
    return built


def _compiled(sides: list[Side], work: Workload) -> Iterator[Side]:
    """Compiled variants of dense sides and of a deployed model."""
    for side in sides:
        thorough = work.every or "folded" in side.name
        if (side.dense and (work.kind != "model" or thorough)) or (side.name == "deployed" and work.kind == "model"):
            module = copy.deepcopy(side.module) if side.train else side.module  # training steps change it
            yield Side(f"{side.name} compiled", module, side.args, True, side.train)


def _layouts(name: str, module: nn.Module, x: Tensor) -> Iterator[Side]:
    """Sides of a module: unchanged and, for images, with channels last."""
    yield Side(name, module, (x,))
    if x.dim() == 4:
        last = cast(Any, copy.deepcopy(module)).to(memory_format=torch.channels_last)
        yield Side(f"{name} channels_last", last, (x.contiguous(memory_format=torch.channels_last),))


# --- a single layer --------------------------------------------------------------------------------------------------


def _layer(work: Workload, x: Tensor, device: torch.device, dtype: torch.dtype) -> Built:
    linear = "in_features" in work.layer
    face: Any = nn.Linear if linear else nn.Conv1d if x.dim() == 3 else nn.Conv2d
    layer = face(**work.layer, bias=False)
    convert_layers_(layer, dict(work.spec))
    layer.harden_()
    layer = layer.to(device, dtype).eval().requires_grad_(False)
    built = Built([*_layouts("dense", copy.deepcopy(layer).to_dense_(), x)])
    built.sides.append(Side("materialize", copy.deepcopy(layer), (x,), way="materialize"))
    why = fused.why_not() if device.type == "cpu" else "it runs on CPUs only"
    built.notes += [f"no fused kernel: {why}"] if why else []
    task = layer.task()
    if task is None and layer.folds is None:
        built.notes.append("its windows share no work")
    if task is not None:
        ways = variants(task, device, dtype, fuse=not why)
        frame, pad = layer_frame(layer)
        operands = layer_operands(layer, After(), pad)
        for kind in sorted(ways, key=list(PLANS).index):
            built.sides.append(Side(kind, PLANS[kind].build(ways[kind], frame, operands).eval(), (x,)))
    _deploy(built, layer, x)
    return built


def _deploy(built: Built, model: nn.Module, x: Tensor) -> None:
    """Add the result of `autosample.deploy` for a model."""
    try:
        fast = deploy(model, x)
    except Exception as error:  # an error in one row must not stop the others
        built.error = f"deploy: {type(error).__name__}: {one_line(error)[:300]}"
        return
    built.sides.append(Side("deployed", fast, (x,)))
    for row in cast(Any, fast).deployment.rows:
        plan = {"kind": row.plan.kind, "reason": row.plan.reason, "fewer_macs": row.plan.saving}
        built.plan.append({"layer": row.name, **plan, "folded": list(row.folded)})


# --- whole models ----------------------------------------------------------------------------------------------------


def converted(work: Workload) -> nn.Module:
    """The model of a workload, converted and hardened, with no all-zero tensors."""
    from autosample.models import create

    model = create(work.model, num_classes=10)
    convert_layers_(model, dict(work.spec), include=work.include or None)
    harden_(model)
    _liven(model)
    return model


def _dense_twin(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for layer in compressed_layers(twin).values():
        layer.to_dense_()
    return twin


def _model(work: Workload, x: Tensor, device: torch.device, dtype: torch.dtype) -> Built:
    model = cast(Any, converted(work)).to(device, dtype).eval().requires_grad_(False)
    plain = _dense_twin(model)
    built = Built([*_layouts("dense", plain, x)])
    try:
        built.sides += _layouts("dense folded", deploy(plain, x, measure=False), x)
    except Exception as error:  # a model whose norms cannot be folded is compared without that variant
        built.notes.append(f"dense folded: {one_line(error)[:200]}")
    _deploy(built, model, x)
    return built


def _training(work: Workload, x: Tensor, device: torch.device, dtype: torch.dtype) -> Built:
    model = cast(Any, converted(work)).to(device, dtype).train()
    y = torch.randint(0, 10, (work.batch,), device=device)
    sides = [Side("dense", _dense_twin(model).requires_grad_(True), (x, y), train=True)]
    sides.append(Side("auto", model, (x, y), train=True))
    return Built([*sides, Side("materialize", copy.deepcopy(model), (x, y), train=True, way="materialize")])


@torch.no_grad()
def _liven(model: nn.Module) -> None:
    """Randomise tensors that start as zeros or ones: a branch multiplied by zero would hide wrong outputs."""
    inside = {id(p) for layer in model.modules() if isinstance(layer, Compressed) for p in layer.parameters()}
    for p in model.parameters():
        if id(p) not in inside and p.numel() > 1 and bool((p == p.flatten()[0]).all()):
            p.uniform_(0.5, 1.5) if p.flatten()[0] != 0 else p.normal_(std=0.1)
    for norm in model.modules():
        if isinstance(norm, _NormBase) and isinstance(norm.running_mean, Tensor):
            norm.running_mean.normal_(std=0.1)
            cast(Tensor, norm.running_var).uniform_(0.5, 1.5)
