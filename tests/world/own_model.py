"""A model that brings Python of its own: the tiny Llama under another name."""

import json
import shutil
from pathlib import Path

CONFIGURATION = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODELING = """
import torch
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        CHANGE
"""


def write_own_model(directory: Path, tiny_model: Path, change: str = "pass") -> Path:
    """Returns `directory`.

    Args:
        change: a statement of Python in which the model becomes another one than Llama; may use `self` and `torch`.
    """
    shutil.copytree(tiny_model, directory)
    (directory / "configuration_own.py").write_text(CONFIGURATION)
    (directory / "modeling_own.py").write_text(MODELING.replace("CHANGE", change))
    config = json.loads((directory / "config.json").read_text())
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": own}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
