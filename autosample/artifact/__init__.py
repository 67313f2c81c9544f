"""Models in a folder: `config.json`, `model.safetensors` and a model card."""

from autosample.nn.stored import compact_state as compact_state
