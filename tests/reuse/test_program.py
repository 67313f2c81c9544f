"""What Python writes into a program is what the C++ code reads from it."""

import re
from pathlib import Path

import pytest

from autosample.reuse import fused
from autosample.reuse.program import Flow, Header, encode
from autosample.reuse.schedule import Frame, make_schedule

CSRC = Path(fused.__file__).parent / "csrc"


def test_the_header_is_that_of_the_kernel():
    source = (CSRC / "program.h").read_text()
    (block,) = re.findall(r"header\[\] = \{([^}]*)\}", source)
    assert tuple(re.findall(r"&(\w+)", block)) == Header._fields


def test_panels_are_those_of_the_kernel():
    (size,) = re.findall(r"kPanel = (\d+)", (CSRC / "simd.h").read_text())
    assert int(size) == fused._PANEL


@pytest.mark.parametrize("axes", [1, 2])
def test_a_header_says_what_was_encoded(axes):
    kernel, stride, padding = (4, 8)[-axes:], (2, 3)[-axes:], ((0, 1), (2, 3))[-axes:]
    schedule = make_schedule(2, kernel, (1,) * axes)
    flow = Flow(3, 4, 5, 6, fold=True, choices=7, spread=9.0, relu=True, pool=2 if axes == 1 else 1)
    header = Header.of(encode(schedule, Frame(kernel, stride, (1,) * axes, padding), flow))
    assert (header.stride_w, header.pad_w, header.after_w, header.reach_w) == (3, 2, 3, 7)
    wanted = (2, 0, 1, 3) if axes == 2 else (1, 0, 0, 0)
    assert (header.stride_h, header.pad_h, header.after_h, header.reach_h) == wanted
    assert (header.groups, header.windows, header.columns, header.channels) == (3, 4, 5, 6)
    assert (header.fold, header.relu, header.pool) == (1, 1, flow.pool)
    assert header.rows == 7 + schedule.span - 1
    assert header.phases >= 1
