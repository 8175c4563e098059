"""Ray Serve LLM's hook through which a replica gets its model: mirrored on its nodes before the engine starts.

replica --on_before_node_init--> one task a node: cluster.mirror.mirror --> the engine is given the local path
"""

from typing import Any

import ray
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.mirror import CACHE_VARIABLE, ModelContent, ModelNotOnNode, mirror


class MirrorBeforeEngine(CallbackBase):
    """Ray's hook before an engine starts: mirrors the model on all nodes of the replica's placement group."""

    def __init__(self, *, content: ModelContent, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.content = content

    async def on_before_node_init(self) -> None:
        assert self.ctx.placement_group is not None, "Ray makes it before the hooks run"
        table = ray.util.placement_group_table(self.ctx.placement_group)
        nodes = sorted(set(table["bundles_to_node_id"].values()))
        task = ray.remote(mirror)
        paths = [
            await task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                self.content
            )
            for node in nodes
        ]
        if len(set(paths)) != 1:
            raise ModelNotOnNode(f"the nodes keep the model at different paths {paths}: set {CACHE_VARIABLE} alike")
        engine = self.llm_config.get_engine_config()
        assert engine is not None, self.llm_config
        engine.hf_model_id = paths[0]
        self.ctx.run_init_node = False
