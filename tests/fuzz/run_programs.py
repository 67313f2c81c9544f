"""Runs damaged programs of the fused kernel; a process of its own, because a crash ends it. See `test_programs.py`.

It writes the number of each case before it runs, and at the end how many were refused.
"""

import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from fuzzing import damaged_numbers, numbered
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

sys.path.insert(0, str(Path(__file__).parents[1] / "reuse"))
from convolutions import Case, cases, folded_layers

from autosample.nn import SummaryLinear
from autosample.nn.folding import fused_folds, layer_folds
from autosample.nn.planning import layer_frame
from autosample.reuse import fused, ops
from autosample.reuse.after import After

_MEMORY = 2 << 30  # that a call may take


def honest(strategy: SearchStrategy) -> list:
    """Layers with all options of a convolution, the same in each run."""
    found = []

    @seed(0)
    @settings(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(case: object) -> None:
        found.append(case)

    collect()
    return found


def calls_of(case: Case, rng: random.Random) -> tuple[list[int], Callable[[list[int]], object]]:
    """An honest program, and what calls the kernel with another one."""
    signal = case.x.dim() == 3
    backward = rng.random() < 0.3
    options = {} if backward else {"relu": rng.random() < 0.5, "pool": rng.choice((1, 2, 3)) if signal else 1}
    x = case.x if case.task.table is None else ops.place_columns(case.x, case.task.table, case.task.groups)
    x = x.bfloat16() if not backward and rng.random() < 0.2 else x
    bank, factors = fused.pack_bank(case.bank, case.task), case.factors
    bias = torch.randn(case.task.filters) if rng.random() < 0.5 else None
    program = fused.make_program(case.task, case.frame, **options)
    y = fused.window_conv(x, bank, case.task.rows, factors, bias, program)
    if not backward:
        return program, lambda code: fused.window_conv(x, bank, case.task.rows, factors, bias, code)
    call = torch.ops.autosample.window_conv_backward
    return program, lambda code: call(torch.ones_like(y), x, bank, case.task.rows, factors, code, True, True)


def folded_calls_of(case: tuple, rng: random.Random) -> tuple[list[int], Callable[[list[int]], object]]:
    """The same for a convolution with folds, which may add another map."""
    layer, x, after = case
    folds, (frame, pad) = layer_folds(layer), layer_frame(layer)
    pool = after["pool"] if x.dim() == 3 and pad is None and frame.out(x.shape[2:])[0] >= after["pool"] else 1
    module = fused_folds(layer, folds, frame, pad, After(None, layer.bias, after["relu"], pool))
    x = x if pad is None else torch.nn.functional.pad(x, *pad)
    x = x.bfloat16() if rng.random() < 0.2 else x
    args = (x, module.bank, module.rows, module.factors, module.bias)
    more = fused.window_conv(*args, module.program)
    more = more if pool == 1 and rng.random() < 0.5 else None
    return module.program, lambda code: fused.window_conv(*args, code, more)


def linear_calls_of(rng: random.Random) -> tuple[list[int], Callable[[list[int]], object]]:
    """The same for a linear layer with folds."""
    layer = SummaryLinear(rng.randint(4, 90), rng.randint(4, 90), spec="folded", ratio=rng.choice((2, 3, 8)))
    if (folds := layer_folds(layer)) is None:
        return linear_calls_of(rng)
    module = fused_folds(layer, folds, None, None, After(None, layer.bias, rng.random() < 0.5))
    x = torch.randn(rng.randint(1, 40), folds.channels)
    call = torch.ops.autosample.folded_linear
    return module.program, lambda code: call(x, module.bank, module.bias, code)


def main() -> None:
    torch.set_num_threads(1)
    assert fused.available(), fused.why_not()
    layers, folded, refused = honest(cases()), honest(folded_layers()), 0
    folded = [case for case in folded if layer_folds(case[0]) is not None]  # some have a single channel group
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))
    with torch.no_grad():
        for number, rng in numbered():
            kind = rng.choice(("plain", "plain", "plain", "folded", "folded", "folded", "linear"))
            if kind == "plain":
                program, call = calls_of(rng.choice(layers), rng)
            else:
                program, call = linear_calls_of(rng) if kind == "linear" else folded_calls_of(rng.choice(folded), rng)
            print(number, flush=True)
            try:
                call(damaged_numbers(program, rng))
            except (RuntimeError, MemoryError):
                refused += 1
    print(f"refused {refused}")


if __name__ == "__main__":
    main()
