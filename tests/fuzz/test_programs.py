"""Damaged programs of the fused kernel end in an error or a result, never in a crash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import CASES

from autosample.reuse import fused


@pytest.mark.slow
def test_no_program_crashes():
    if why := fused.why_not():
        pytest.skip(why)
    script = Path(__file__).with_name("run_programs.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    *begun, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"case {last} ended with {done.returncode}: {done.stderr[-2000:]}"
    assert len(begun) == CASES
    refused = int(last.removeprefix("refused "))
    print(f"{CASES} programs: {refused} refused, {CASES - refused} computed, 0 crashes")
    assert refused > CASES / 3
