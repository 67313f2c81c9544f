"""What Python writes into a program is what the C++ code reads from it."""

import re
from pathlib import Path

import pytest
import torch
from convolutions import relative_error

from autosample.nn import SummaryConv1d
from autosample.nn.planning import layer_frame
from autosample.reuse import folded_kernel, fused
from autosample.reuse.program import Flow, Header, encode
from autosample.reuse.schedule import Frame, make_schedule

CSRC = Path(fused.__file__).parent / "csrc"


def test_the_header_is_that_of_the_kernel():
    source = (CSRC / "program.h").read_text()
    (block,) = re.findall(r"header\[\] = \{([^}]*)\}", source)
    assert tuple(re.findall(r"&(\w+)", block)) == Header._fields


def test_panels_are_those_of_the_kernel():
    (size,) = re.findall(r"kPanel = (\d+)", (CSRC / "simd.h").read_text())
    assert int(size) == fused.PANEL
    (block,) = re.findall(r"kBlock = (\d+)", (CSRC / "simd.h").read_text())
    assert int(block) == folded_kernel._BLOCK


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


SIZES = {
    "stride_w": 0,
    "groups": 0,
    "windows": 9,
    "columns": 0,
    "fold": 2,
    "rows": 0,
    "relu": 2,
    "pool": 0,
    "phases": 5,
}
FAR = (-1, 2**24, 2**31, 2**62, -(2**63))


@pytest.fixture
def call(kernel):
    """The kernel on a layer with one running sum, by its program; and the program."""
    task, frame = (layer := SummaryConv1d(4, 24, 32, spec="wsnet", ratio=8, bias=False)).task(), layer_frame(layer)[0]
    bank, x = fused.pack_bank(task.source(layer.summary.detach()), task), torch.randn(2, 4, 90)
    program = fused.make_program(task, frame)
    expected = torch.nn.functional.conv1d(x.double(), layer.weight.detach().double())
    assert relative_error(fused.window_conv(x, bank, task.rows, None, None, program), expected) < 1e-5
    return lambda code: fused.window_conv(x, bank, task.rows, None, None, code), program


def test_programs_with_wrong_sizes_are_refused(call):
    run, program = call
    for name, wrong in SIZES.items():
        code = list(program)
        code[Header._fields.index(name)] = wrong
        with pytest.raises(RuntimeError, match="window_conv"):
            run(code)


def test_no_number_of_a_program_may_be_far_away(call):
    run, program = call
    for place in range(len(program)):
        for wrong in FAR:
            with pytest.raises(RuntimeError, match="window_conv"):
                run([*program[:place], wrong, *program[place + 1 :]])


def test_programs_that_are_too_short_or_too_long_are_refused(call):
    run, program = call
    for end in range(len(program)):
        with pytest.raises(RuntimeError, match="window_conv: the program is broken"):
            run(program[:end])
    with pytest.raises(RuntimeError, match=r"window_conv: the program is broken \(it is too long\)"):
        run([*program, 0])


def test_a_program_for_images_is_refused_for_signals(call):
    run, program = call
    for name in ("pad_h", "after_h"):
        code = list(program)
        code[Header._fields.index(name)] = 1
        with pytest.raises(RuntimeError, match="differ in their axes"):
            run(code)
