"""Offset rules. To add one: write a file with a subclass of `Offsets`, and add its row here."""

from autosample.sampling.offsets.base import LearnedOffsets as LearnedOffsets
from autosample.sampling.offsets.base import Offsets as Offsets
from autosample.sampling.offsets.base import Places as Places
from autosample.sampling.offsets.categorical import CategoricalOffsets as CategoricalOffsets
from autosample.sampling.offsets.gumbel import GumbelOffsets as GumbelOffsets
from autosample.sampling.offsets.indexed import IndexedOffsets as IndexedOffsets
from autosample.sampling.offsets.interpolated import InterpolatedOffsets as InterpolatedOffsets
from autosample.sampling.offsets.random import RandomOffsets as RandomOffsets
from autosample.sampling.offsets.separable import SeparableOffsets as SeparableOffsets
from autosample.sampling.offsets.strided import StridedOffsets as StridedOffsets
from autosample.sampling.offsets.table import AssignedOffsets as AssignedOffsets
from autosample.sampling.offsets.table import TableOffsets as TableOffsets

OFFSET_RULES: dict[str, type] = {
    "strided": StridedOffsets,
    "random": RandomOffsets,
    "interpolated": InterpolatedOffsets,
    "categorical": CategoricalOffsets,
    "gumbel": GumbelOffsets,
    "assigned": AssignedOffsets,
    "separable": SeparableOffsets,
    "indexed": IndexedOffsets,
}
