"""Save and load models as a folder: `config.json`, `model.safetensors` and a model card."""

from autosample.artifact.config import Config as Config
from autosample.artifact.config import Source as Source
from autosample.artifact.hub import from_pretrained as from_pretrained
from autosample.artifact.hub import push_to_hub as push_to_hub
from autosample.artifact.loading import load as load
from autosample.artifact.loading import load_any as load_any
from autosample.artifact.saving import save as save
from autosample.nn.stored import compact_state as compact_state
