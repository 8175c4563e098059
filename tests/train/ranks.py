"""Runs a function on several ranks, each a process of its own with gloo, and gathers what the ranks return."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jobs.train.fsdp import set_threads
from tests.world.ranks import PRELOADED


def run_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`function(*args)` on every rank; the results in rank order. What a rank raises is raised here."""
    with tempfile.TemporaryDirectory() as directory:
        mp.get_context("forkserver").set_forkserver_preload(PRELOADED)
        mp.start_processes(_rank, (world_size, directory, function, args), nprocs=world_size, start_method="forkserver")
        return [torch.load(Path(directory, f"{rank}.pt"), weights_only=False) for rank in range(world_size)]


def _rank(rank: int, world_size: int, directory: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    set_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=world_size)
    try:
        torch.save(function(*args), Path(directory, f"{rank}.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()
