"""Between micro-batches a rank holds the gradient of its own rows; only models that stay gathered have all of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from jobs.train import fsdp
from jobs.train.batch import PackedBatch, pack_rows
from jobs.train.fsdp import build_mesh
from jobs.train.objectives.objective import Contribution
from tests.train.live_bytes import live_bytes
from tests.train.ranks import run_ranks
from tests.train.test_learner import make_rows, next_token, start, total_weight
from tests.train.tiny_models import save_tiny_model
from tests.train.whole import whole_gradients


def gradients_of_two_micro_batches(directory: Path, keep_gathered_bytes: int) -> tuple[int, int, dict[str, Tensor]]:
    """(bytes in fp32 that came with the first micro-batch and stayed, numbers of the model, the whole gradient)."""
    fsdp.KEEP_GATHERED_BYTES = keep_gathered_bytes
    rows = make_rows(4)
    mine = rows[dist.get_rank() :: dist.get_world_size()]
    learner = start(directory, build_mesh(dist.get_world_size()), "bf16")
    loss = next_token(total_weight(rows))
    held: list[int] = []

    def watched(values_W: Tensor, batch: PackedBatch) -> Contribution:
        held.append(live_bytes()[torch.float32])
        return loss(values_W, batch)

    learner.forward_backward([pack_rows([row]) for row in mine], watched)
    whole = whole_gradients(learner)
    return held[1] - held[0], sum(gradient.numel() for gradient in whole.values()), whole


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "llama_untied")


def test_a_large_model_sums_its_gradient_after_every_micro_batch(directory: Path) -> None:
    kept: list[Any] = run_ranks(2, gradients_of_two_micro_batches, directory, 1 << 30)
    cut: list[Any] = run_ranks(2, gradients_of_two_micro_batches, directory, 0)
    numbers = kept[0][1]
    assert kept[0][0] > 4 * numbers  # whole, on each rank
    assert cut[0][0] < 1.1 * 4 * numbers / 2  # own rows
    for name, gradient in kept[0][2].items():
        torch.testing.assert_close(cut[0][2][name], gradient, rtol=0, atol=1e-2 * float(gradient.abs().max()))
