"""Ranks as plain processes under torch.multiprocessing: the Learner's host that needs no Ray."""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as multiprocessing

PRELOADED = ["jobs.train.loop", "transformers.models.llama.modeling_llama"]
"""What a rank imports, once for all ranks of a test run: five seconds of a core each otherwise."""


def run_ranks(
    world_size: int, function: Callable[..., None], *arguments: Any, environment: dict[str, str] | None = None
) -> list[int]:
    """Runs `function(*arguments)` on every rank of a gloo group; the exit codes (-9 for a killed one).

    Where one rank dies the others are ended too, as a gang scheduler does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as directory:
        ranks = [
            context.Process(
                target=_rank, args=(rank, world_size, f"{directory}/rendezvous", function, arguments, environment or {})
            )
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        while any(rank.is_alive() for rank in ranks):
            for rank in ranks:
                rank.join(0.05)
            if any(rank.exitcode not in (None, 0) for rank in ranks):
                for rank in ranks:
                    rank.kill()
        return [int(rank.exitcode or 0) for rank in ranks]


def _rank(
    rank: int,
    world_size: int,
    rendezvous: str,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    function(*arguments)
    dist.destroy_process_group()
