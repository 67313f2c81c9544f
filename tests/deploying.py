"""What the tests of deployment share: layers and models to deploy, forced plans, and the outputs that must come out."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only

from autosample import deploy, harden_
from autosample.nn import Compressed, SummaryLayer, compressed_layers, execution
from autosample.reuse import fused
from autosample.reuse.planner import variants
from autosample.reuse.plans import PLANS as KINDS
from autosample.reuse.plans import dense
from autosample.reuse.task import Task

PLANS = ("dense", "fold", "reuse", "fused")


def force(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """Make the cost model prefer a plan; skips where the plan cannot run at all."""
    if plan == "fused" and not fused.available():
        pytest.skip(fused.why_not())
    set_costs(monkeypatch, {"dense": 1.0, plan: 0.1}, others=10.0)


def set_costs(monkeypatch: pytest.MonkeyPatch, costs: dict[str, float], others: float) -> None:
    """Make the cost model predict these numbers for every layer."""
    monkeypatch.setattr(dense, "cost", lambda *args: costs.get("dense", others))
    for kind, plan in KINDS.items():
        monkeypatch.setattr(plan, "cost", lambda *args, kind=kind: costs.get(kind, others))


def all_variants(task: Task) -> dict[str, Task]:
    """What the plans compute on a CPU in float32, with the fused kernel where it can be built."""
    return variants(task, torch.device("cpu"), torch.float32, fuse=True)


def possible(layer: Compressed, plan: str) -> str:
    """What becomes of a layer where a plan is forced: that plan, or dense if its windows share nothing."""
    task = harden_(copy.deepcopy(layer)).task()
    return plan if task is not None and plan in all_variants(task) else "dense"


@torch.no_grad()
def scramble(model: nn.Module) -> nn.Module:
    """As after some training: positions between the integers; statistics and factors of norms, some negative."""
    for module in model.modules():
        if isinstance(module, SummaryLayer):
            for name, p in module.offsets.named_parameters():
                if name.endswith("position"):
                    p.add_(0.3 * torch.rand_like(p))
            if module.offsets.mixture is not None:
                module.offsets.mixture.chooser.normal_()
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.uniform_(0.5, 1.5).mul_((torch.rand_like(module.weight) - 0.2).sign())
                module.bias.normal_(std=0.1)
    return model


@torch.no_grad()
def expected(model: nn.Module, *inputs, dtype: torch.dtype | None = torch.float64):
    """The outputs of the hardened model, in evaluation mode, with every weight materialised."""
    twin = copy.deepcopy(model)
    if compressed_layers(twin):
        harden_(twin)
    if dtype is not None:
        twin.to(dtype)
        inputs = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)
    with execution("materialize"):
        return twin.eval()(*inputs)


def error(got, wanted) -> float:
    """The largest difference, relative to the largest number wanted of the same output."""
    worst = 0.0
    for a, b in zip(tree_leaves(got), tree_leaves(wanted), strict=True):
        if isinstance(b, Tensor):
            assert a.shape == b.shape
            difference = ((a.double() - b.double()).abs().amax() / b.double().abs().amax()).item()
            assert difference >= 0  # or one of them has no numbers, or nothing but zeros
            worst = max(worst, difference)
    return worst


def check(model: nn.Module, *inputs, tolerance: float = 1e-5, **options) -> nn.Module:
    """Deploy a model without measurements and compare; returns what has been deployed."""
    fast = deploy(model, inputs, **{"measure": False, **options})
    assert not compressed_layers(fast)
    assert not any(m.training for m in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())
    with torch.no_grad():
        assert error(fast(*inputs), expected(model, *inputs)) < tolerance
    return fast


def kinds(fast: nn.Module) -> list[str]:
    """The plans of a deployed model."""
    return [row.plan.kind for row in fast.deployment.rows]
