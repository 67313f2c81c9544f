"""Peak memory of what `deploy` takes on the benchmark shapes, with and without the fused kernel."""

import copy
from typing import Any, cast

import pytest
import torch

import autosample
from autosample.bench.cases import Workload, suite
from autosample.bench.memory import peak_memory
from autosample.bench.sides import Side
from autosample.nn import SummaryConv1d, SummaryConv2d
from autosample.nn.dense import to_dense_


@pytest.mark.slow
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("work", suite("layers"), ids=lambda work: work.name)
def test_no_plan_takes_a_quarter_more_than_dense(work: Workload, fuse: bool) -> None:
    torch.manual_seed(0)
    face = cast(Any, SummaryConv1d if len(work.input) == 2 else SummaryConv2d)
    layer = face(**work.layer, bias=False, spec=autosample.spec(dict(work.summary))).eval().requires_grad_(False)
    x = torch.randn(work.batch, *work.input)
    layer.harden_()
    dense, why = peak_memory(Side("dense", to_dense_(copy.deepcopy(layer)), (x,)), 1)
    if dense is None:
        pytest.skip(why)
    taken, _ = peak_memory(Side("deployed", autosample.deploy(layer, x, fuse=fuse), (x,)), 1)
    assert taken is not None
    assert taken <= 1.25 * dense
