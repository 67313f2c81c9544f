"""Offset rules. To add one: write a file with a subclass of `Offsets`, and add its row here."""

from autosample.sampling.rules.base import LearnedOffsets as LearnedOffsets
from autosample.sampling.rules.base import Offsets as Offsets
from autosample.sampling.rules.base import Places as Places
from autosample.sampling.rules.categorical import CategoricalOffsets as CategoricalOffsets
from autosample.sampling.rules.gumbel import GumbelOffsets as GumbelOffsets
from autosample.sampling.rules.indexed import IndexedOffsets as IndexedOffsets
from autosample.sampling.rules.interpolated import InterpolatedOffsets as InterpolatedOffsets
from autosample.sampling.rules.random import RandomOffsets as RandomOffsets
from autosample.sampling.rules.separable import SeparableOffsets as SeparableOffsets
from autosample.sampling.rules.strided import StridedOffsets as StridedOffsets
from autosample.sampling.rules.table import AssignedOffsets as AssignedOffsets
from autosample.sampling.rules.table import TableOffsets as TableOffsets

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
