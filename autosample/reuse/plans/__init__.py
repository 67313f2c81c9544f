"""The ways to compute a layer that reuses work: one file per plan, and one row each here."""

from autosample.reuse.plans.base import Operands as Operands
from autosample.reuse.plans.base import PlanKind as PlanKind
from autosample.reuse.plans.fold import Fold
from autosample.reuse.plans.fused import Fused
from autosample.reuse.plans.segments import Segments

#: Every kind of plan except `dense`, which all of them must beat.
PLANS: dict[str, PlanKind] = {"fold": Fold(), "reuse": Segments(), "fused": Fused()}
