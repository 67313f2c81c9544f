"""Numbers at 16 bits that are used as they are stored."""

import pytest
import torch

from autosample.coding.fixed import at_steps, from_steps, to_steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_used_as_they_are_stored_and_gradients_pass(dtype):
    given = torch.tensor([0.0, 1.0, -1 / 3, 1e-5, 2.5 / 4096, 100.0, -9.0], dtype=dtype, requires_grad=True)
    used = at_steps(given)
    assert (used * 4096).tolist() == [0, 4096, -1365, 0, 2, 32767, -32767]  # halves go to even numbers
    used.backward(torch.arange(7, dtype=dtype))
    assert given.grad.tolist() == list(range(7))
    stored = to_steps(given)
    assert stored.dtype == torch.int16
    assert torch.equal(from_steps(stored), used.float())
    assert torch.equal(at_steps(from_steps(stored)), from_steps(stored))
