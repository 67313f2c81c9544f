"""Choices of columns that are stored as a table, and files of versions that learned them."""

import pytest
import torch

from autosample.artifact.upgrade import upgraded_state
from autosample.errors import ArtifactError
from autosample.nn import SummaryConv1d
from autosample.nn.reading import read_spec
from autosample.sampling.columns import TableColumns

TABLE = torch.tensor([[2, 0, 0], [1, 2, 1]])


def test_a_table_is_read_by_channels_and_stored_at_its_bits():
    columns = TableColumns(2, 3)
    assert columns.table().tolist() == [[0, 1, 2], [0, 1, 2]]  # m mod Q
    columns.keep("chosen", TABLE, 2)
    summary, upstream = torch.randn(5, 3, dtype=torch.float64), torch.randn(10, 3, dtype=torch.float64)
    wide = columns.widen(summary)
    for g in range(2):
        for q in range(3):
            assert torch.equal(wide.view(2, 5, 3)[g, :, q], summary[:, TABLE[g, q]])
    # the adjoint
    torch.testing.assert_close((wide * upstream).sum(), (summary * columns.narrow(upstream)).sum())
    packed = columns.packed()
    assert columns.stored_bits() == 12
    assert packed["table"].nbytes == 2
    assert torch.equal(TableColumns(2, 3).restored(packed).table(), TABLE)


def test_a_damaged_table_is_refused():
    with pytest.raises(ArtifactError, match="stored columns must be below 3, got 3"):
        TableColumns(2, 3).restored({"table": torch.tensor([0b11, 0], dtype=torch.uint8)})
    assert TableColumns(2, 1).packed() == {}
    assert TableColumns(2, 1).restored({}).table().tolist() == [[0], [0]]


@pytest.mark.parametrize("old", [True, False], ids=["0.1.0", "later"])
@pytest.mark.parametrize("frozen", [True, False])
def test_checkpoints_in_which_columns_were_learned_keep_the_choice(frozen, old):
    """Scores decide until they are frozen; version 0.1.0 kept the numbers themselves, others their bits."""
    layer = SummaryConv1d(6, 8, 3, spec="random", ratio=4, windows=2, columns="table")
    scores = torch.nn.functional.one_hot(TABLE if not frozen else 0 * TABLE, 3).float()
    kept, known = TableColumns(2, 3), {k: v for k, v in layer.state_dict().items() if not k.startswith("columns.")}
    kept.keep("chosen", TABLE if frozen else 0 * TABLE, 2)
    own = {"chosen": kept.table()} if old else {"chosen_bits": kept.get_buffer("chosen_bits")}
    flag = {"frozen": torch.tensor(int(frozen))} if old else {"frozen_bits": torch.tensor([frozen])}
    state = {**known, **{f"columns.{name}": value for name, value in {"logits": scores, **own, **flag}.items()}}
    layer.load_state_dict(upgraded_state(state, "last.ckpt"))
    assert torch.equal(layer.columns.table(), TABLE)


def test_files_in_which_columns_were_learned_hold_a_table():
    assert read_spec({"preset": "wsnet", "ratio": 4, "columns": "learned"}).columns == "table"
