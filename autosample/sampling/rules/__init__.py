"""Offset rules. To add one, write a subclass of `Offsets` in its own file and add a row to `RULES`.

A method that samples nothing is a row of the same table: a subclass of `autosample.nn.Compressed`.
"""

from autosample.sampling.rules.assigned import AssignedOffsets as AssignedOffsets
from autosample.sampling.rules.base import Lattice as Lattice
from autosample.sampling.rules.base import Offsets as Offsets
from autosample.sampling.rules.base import RuleOptions as RuleOptions
from autosample.sampling.rules.categorical import CategoricalOffsets as CategoricalOffsets
from autosample.sampling.rules.categorical import NearOffsets as NearOffsets
from autosample.sampling.rules.conditioned import ConditionedOffsets as ConditionedOffsets
from autosample.sampling.rules.epitome import EpitomeOffsets as EpitomeOffsets
from autosample.sampling.rules.folded import FoldedOffsets as FoldedOffsets
from autosample.sampling.rules.indexed import IndexedOffsets as IndexedOffsets
from autosample.sampling.rules.interpolated import InterpolatedOffsets as InterpolatedOffsets
from autosample.sampling.rules.learned import LearnedOffsets as LearnedOffsets
from autosample.sampling.rules.learned import LearnedOptions as LearnedOptions
from autosample.sampling.rules.products import ProductOptions as ProductOptions
from autosample.sampling.rules.products import SumProducts as SumProducts
from autosample.sampling.rules.random import RandomOffsets as RandomOffsets
from autosample.sampling.rules.strided import StridedOffsets as StridedOffsets
from autosample.sampling.rules.table import TableOffsets as TableOffsets

#: The class behind each name that a spec's `rule` can have; every class has its own `Options`.
RULES: dict[str, type] = {
    "strided": StridedOffsets,
    "folded": FoldedOffsets,
    "conditioned": ConditionedOffsets,
    "random": RandomOffsets,
    "interpolated": InterpolatedOffsets,
    "categorical": CategoricalOffsets,
    "assigned": AssignedOffsets,
    "indexed": IndexedOffsets,
    "epitome": EpitomeOffsets,
    "strassen": SumProducts,
}
