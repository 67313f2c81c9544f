"""Sampling: pure tensor maths from a summary to a dense weight and back, and the offset rules."""

from autosample.sampling.columns import Columns as Columns
from autosample.sampling.columns import build_columns as build_columns
from autosample.sampling.fitting import fit_positions as fit_positions
from autosample.sampling.fitting import fit_summary as fit_summary
from autosample.sampling.geometry import Geometry as Geometry
from autosample.sampling.geometry import kind_of as kind_of
from autosample.sampling.hashing import random_signs as random_signs
from autosample.sampling.rules import OFFSET_RULES as OFFSET_RULES
from autosample.sampling.rules import LearnedOffsets as LearnedOffsets
from autosample.sampling.rules import Offsets as Offsets
from autosample.sampling.rules import Places as Places
from autosample.sampling.rules import TableOffsets as TableOffsets
from autosample.sampling.sample import sample_weight as sample_weight
from autosample.sampling.sizing import gain_count as gain_count
from autosample.sampling.sizing import plan_geometry as plan_geometry
from autosample.sampling.sizing import settle as settle
from autosample.sampling.windows import Placement as Placement
from autosample.sampling.windows import multiplicity as multiplicity
