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

sys.path.insert(0, str(Path(__file__).parents[1] / "reuse"))
from convolutions import Case, cases

from autosample.reuse import fused, ops

_MEMORY = 2 << 30  # that a call may take


def honest() -> list[Case]:
    """Layers with all options of a convolution, the same in each run."""
    found: list[Case] = []

    @seed(0)
    @settings(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(cases())
    def collect(case: Case) -> None:
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


def main() -> None:
    torch.set_num_threads(1)
    assert fused.available(), fused.why_not()
    layers, refused = honest(), 0
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, now + _MEMORY))
    with torch.no_grad():
        for number, rng in numbered():
            program, call = calls_of(rng.choice(layers), rng)
            print(number, flush=True)
            try:
                call(damaged_numbers(program, rng))
            except (RuntimeError, MemoryError):
                refused += 1
    print(f"refused {refused}")


if __name__ == "__main__":
    main()
