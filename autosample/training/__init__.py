"""Training with Lightning: module, parameter groups, callbacks. It needs `autosample[train]`."""

from autosample.system.extras import require

require("train", "pytorch_lightning", "torchmetrics")

from autosample.training.callbacks import PredictionFile as PredictionFile
from autosample.training.callbacks import SizeReport as SizeReport
from autosample.training.checkpoints import WholeCheckpoints as WholeCheckpoints
from autosample.training.clustering import ClusterPenalty as ClusterPenalty
from autosample.training.finite import FiniteCheck as FiniteCheck
from autosample.training.freezing import HardenSchedule as HardenSchedule
from autosample.training.groups import parameter_groups as parameter_groups
from autosample.training.module import Classifier as Classifier
from autosample.training.moving import MoveFilters as MoveFilters
from autosample.training.offset_log import OffsetLog as OffsetLog
from autosample.training.quantizing import FakeQuantize as FakeQuantize
