"""What a handle costs the driver of a job, with few and with many actors that do nothing.

calls x actors --ActorGroup.all--> handles --gather--> CPU seconds of this process for each handle
"""

import time

from tests.benchmarks.side_by_side import Turns

ACTORS = (4, 32)
HANDLES = 4096
"""In all, for each number of actors."""


def serve(turns: Turns) -> None:
    """One turn: both numbers of actors."""
    import ray

    from cluster.group import ActorGroup, gather
    from cluster.session import connect
    from configs.schema.run import Cluster

    class Light:
        def number(self) -> float:
            return 1.0

    with connect(Cluster(logical_cpus=max(ACTORS))):
        actor = ray.remote(num_cpus=0)(Light)
        groups = [
            ActorGroup(f"light_{count}", tuple(actor.remote() for _ in range(count)), ("here",) * count)
            for count in ACTORS
        ]
        for group in groups:
            gather([(group, group.all(lambda rank: rank.number.remote()))], 300, "starting")
        while turns.wait():
            numbers: dict[str, float] = {}
            began = time.perf_counter()
            for group in groups:
                cpu_began = time.process_time()
                for _ in range(HANDLES // len(group.ranks)):
                    gather([(group, group.all(lambda rank: rank.number.remote()))], 60, "numbers")
                numbers[f"handle_of_{len(group.ranks)}_s"] = (time.process_time() - cpu_began) / HANDLES
            turns.report(time.perf_counter() - began, 0.0, **numbers)
