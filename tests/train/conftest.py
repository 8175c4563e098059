"""One rank in the test's own process, for everything that needs no second one."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from jobs.train.fsdp import build_mesh, set_threads


@pytest.fixture(scope="module")
def one_rank() -> Iterator[DeviceMesh]:
    set_threads(2)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield build_mesh(1)
    dist.destroy_process_group()
