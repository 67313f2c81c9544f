"""Every method with every coding of its numbers, in layers of every kind: what files hold, and what they load to."""

import pytest
import torch
from every_kind import CODINGS, EVERY, EveryKind, X, every_kind
from safetensors.torch import load_file

import autosample
from autosample import quantize_, report


def coded(method: str, coding: str):
    net = every_kind(method)
    if (options := CODINGS[coding]) is not None:
        quantize_(net, **options)
    return net


# as a fresh process takes seconds to start, it loads many
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 8))])
def test_a_fresh_process_loads_the_same_bits(part, saved, load_afresh):
    """`part` goes along diagonals, so that each has every method or coding."""
    x, folders = torch.randn(X), []
    for i, (method, coding) in enumerate(EVERY):
        if i % 8 == part:
            compression = ("huffman", "none", "xz")[i % 3 if part else 0]
            net = coded(method, coding)
            folders.append(saved(net, f"{method}-{coding}", x, compression=compression, factory=EveryKind))
    load_afresh(folders)


@pytest.mark.parametrize(("method", "coding"), EVERY)
@pytest.mark.every(4, 1)
def test_reports_and_files_have_the_same_bytes(method, coding, tmp_path):
    net = coded(method, coding)
    told = report(net)
    for compression, expected in (("none", told.stored_bytes), ("huffman", told.coded_bytes)):
        folder = tmp_path / compression
        saved = autosample.save(net, folder, compression=compression, factory=EveryKind)
        tensors = load_file(folder / "model.safetensors")
        assert sum(tensor.nbytes for tensor in tensors.values()) == saved.stored_bytes == expected
        # layer by layer, with the shapes that the library for such files lists
        for row in told.rows[:-1]:
            own = [t.nbytes for name, t in tensors.items() if name.startswith(f"{row.name}.")]
            assert sum(own) == (row.stored_bytes if compression == "none" else row.coded_bytes), row.name
    assert told.coded_bytes <= told.stored_bytes
