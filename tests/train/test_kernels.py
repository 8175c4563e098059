"""Faster kernels are refused by name where they cannot run."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.distributed.device_mesh import DeviceMesh

from cluster.storage import open_store
from configs.schema.training import LanguageModelStage
from jobs.train.kernels import KernelsMissing
from jobs.train.learner import Learner, LearnerSpec
from tests.train.tiny_models import save_tiny_model
from tests.world.toy_training import toy_stage


@pytest.mark.parametrize(
    ("asked", "instead"), [({"kernels": "liger"}, "kernels: torch"), ({"compile": True}, "compile: false")]
)
def test_what_needs_a_gpu_is_refused_where_there_is_none(
    tmp_path: Path, one_rank: DeviceMesh, asked: dict, instead: str
) -> None:
    values = toy_stage().model_dump() | asked
    with pytest.raises(ValidationError, match="set resources.gpus_per_rank: 1, or leave it out"):
        LanguageModelStage.model_validate(values)
    directory = save_tiny_model(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(KernelsMissing, match=f"set {instead}"):
            Learner(LearnerSpec(open_store(str(directory)), "fp32", None, **asked), one_rank)
