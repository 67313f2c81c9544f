"""Sampling: the mathematics from a summary to a dense weight and back, the offset rules, and specs."""

from autosample.sampling.columns import COLUMNS as COLUMNS
from autosample.sampling.columns import Columns as Columns
from autosample.sampling.columns import build_columns as build_columns
from autosample.sampling.fitting import fit_offsets as fit_offsets
from autosample.sampling.fitting import fit_summary as fit_summary
from autosample.sampling.geometry import Geometry as Geometry
from autosample.sampling.geometry import kind_of as kind_of
from autosample.sampling.hashing import random_signs as random_signs
from autosample.sampling.presets import PRESETS as PRESETS
from autosample.sampling.rules import RULES as RULES
from autosample.sampling.rules import Lattice as Lattice
from autosample.sampling.rules import LearnedOffsets as LearnedOffsets
from autosample.sampling.rules import LearnedOptions as LearnedOptions
from autosample.sampling.rules import Offsets as Offsets
from autosample.sampling.rules import ProductOptions as ProductOptions
from autosample.sampling.rules import RuleOptions as RuleOptions
from autosample.sampling.rules import TableOffsets as TableOffsets
from autosample.sampling.sample import sample_weight as sample_weight
from autosample.sampling.sizing import plan_geometry as plan_geometry
from autosample.sampling.sizing import settle as settle
from autosample.sampling.spec import Spec as Spec
from autosample.sampling.windows import Placement as Placement
from autosample.sampling.windows import multiplicity as multiplicity
