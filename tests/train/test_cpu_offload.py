"""FSDP's CPU offload on a mesh of CPUs, where it has nothing to copy: the same path, the same bits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from cluster.storage import open_store
from jobs.train.batch import pack_rows
from jobs.train.fsdp import build_mesh
from jobs.train.learner import Learner, LearnerSpec
from tests.train.ranks import run_ranks
from tests.train.test_learner import OPTIMIZER, RATE, make_rows, next_token
from tests.train.tiny_models import save_tiny_model


def offloaded_step(directory: Path, offload: bool) -> tuple[dict[str, Tensor], int, Tensor]:
    """The state after two steps, how many groups are offloaded, and its log-probabilities."""
    spec = LearnerSpec(open_store(str(directory)), "bf16", OPTIMIZER, cpu_offload=offload)
    learner = Learner(spec, build_mesh(2))
    learner.load()
    batch = pack_rows(make_rows(3))
    for _ in range(2):
        learner.step(RATE, learner.forward_backward([batch, batch], next_token(100.0)))
    groups = [module for module in learner.sharded.module.modules() if isinstance(module, FSDPModule)]
    params = [param for group in groups for param in group._get_fsdp_state()._fsdp_param_group.fsdp_params]
    state = {name: values.clone() for name, values in learner.state().items()}
    return state, sum(param.offload_to_cpu for param in params), learner.forward(batch)


@pytest.mark.cluster
def test_offloading_to_the_cpu_changes_no_bit(tmp_path: Path) -> None:
    directory = save_tiny_model(tmp_path)
    kept = run_ranks(2, offloaded_step, directory, False)
    offloaded = run_ranks(2, offloaded_step, directory, True)
    for (state, none, scores), (same, all_of_them, same_scores) in zip(kept, offloaded, strict=True):
        assert none == 0 and all_of_them == sum(name.startswith("param/") for name in state)
        assert state.keys() == same.keys() and all(torch.equal(values, same[name]) for name, values in state.items())
        assert torch.equal(scores, same_scores)
