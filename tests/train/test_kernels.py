"""Liger's kernels are refused by name where they cannot run."""

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


def test_liger_is_refused_where_there_is_no_gpu(tmp_path: Path, one_rank: DeviceMesh) -> None:
    values = toy_stage().model_dump() | {"kernels": "liger"}
    with pytest.raises(ValidationError, match="set resources.gpus_per_rank: 1"):
        LanguageModelStage.model_validate(values)
    directory = save_tiny_model(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(KernelsMissing, match="set kernels: torch"):
            Learner(LearnerSpec(open_store(str(directory)), "fp32", None, kernels="liger"), one_rank)
