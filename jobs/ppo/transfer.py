"""The far end of a weight sync, inside vLLM's worker: buckets behind the verbs of vLLM's own weight-transfer API.

    RolloutEngine --collective_rpc--> worker: start_weight_update -> update_weights* -> finish_weight_update
                                              (vLLM's)   |
                                      BucketTransfer: every layer back to checkpoint format, bucket by bucket loaded;
                                      a layer that is complete is packed for the CPU's kernels again

vLLM imports this module in every worker, because `worker_extension_cls` names a class in it, and that registers the engine.
Plain `model.load_weights` would be wrong here: on a CPU the weights are packed when they are loaded and the originals
emptied, so only the layer-wise reload reaches them (vllm/model_executor/model_loader/reload).
"""

import logging
from dataclasses import dataclass
from typing import Any, cast

import ray
import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngine, WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from cluster.weights import FETCH_TIMEOUT_S, Bucket, Manifest, open_bucket
from jobs.ppo.inversion import SeededSampler

# It warns of every layer that an update of a part leaves alone, rotary angles always among them; `left_over` counts instead.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)

BACKEND = "acclimate_buckets"
"""Under which vLLM knows the engine."""
EXTENSION = "jobs.ppo.transfer.WorkerExtension"


@dataclass
class BucketInit(WeightTransferInitInfo):
    """Nothing has to be agreed on: a bucket says what it is."""


@dataclass
class BucketUpdate(WeightTransferUpdateInfo):
    """One bucket, and the manifest that announced it."""

    manifest: Manifest
    bucket: Bucket


class BucketTransfer(WeightTransferEngine[BucketInit, BucketUpdate]):
    """Takes buckets from memory or from Ray's object store; for workers without a GPU."""

    init_info_cls = BucketInit
    update_info_cls = BucketUpdate

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self.parameters = frozenset(name for name, _ in model.named_parameters())
        """In vLLM's names: q, k and v are one parameter there. A tied head is none."""
        self.loaded: set[str] = set()

    def init_transfer_engine(self, init_info: BucketInit) -> None:
        """There is no connection to make."""

    def start_weight_update(self) -> None:
        """Brings every layer back to the format of a checkpoint."""
        self.loaded.clear()
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: BucketUpdate) -> None:
        """Checks a bucket and loads it. Raises WeightSyncFailed; then the model is neither old nor new."""
        data = update_info.bucket.data
        if isinstance(data, ray.ObjectRef):
            data = ray.get(data, timeout=FETCH_TIMEOUT_S)
        tensors = open_bucket(update_info.manifest, update_info.bucket, data)
        loaded = cast(Any, self.model).load_weights(iter(tensors.items()))
        assert loaded is not None, f"{type(self.model).__name__}.load_weights does not say what it has loaded"
        self.loaded |= loaded

    def finish_weight_update(self) -> None:
        """Packs what is complete. Layers that got nothing keep what they had: `left_over` names them."""
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            # A head tied to the embedding is loaded with it, but packed on its own: vLLM's reload leaves its old copy.
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def left_over(self) -> list[str]:
        """Parameters that the last update did not reach."""
        return sorted(self.parameters - self.loaded)

    def shutdown(self) -> None:
        """Nothing is held."""


class WorkerExtension:
    """What RolloutEngine asks a worker beyond vLLM's verbs; vLLM makes it a base class of its worker."""

    model_runner: Any
    weight_transfer_engine: Any
    vllm_config: VllmConfig
    _weight_update_active: bool

    def sample_by_inversion(self) -> None:
        """From now on requests with a seed of ours are drawn by jobs/ppo/inversion.py."""
        self.model_runner.sampler = SeededSampler(self.model_runner.sampler.logprobs_mode)

    def parameters_not_updated(self) -> list[str]:
        """In vLLM's names, after `finish_weight_update`."""
        return self.weight_transfer_engine.left_over()

    def abandon_weight_update(self) -> None:
        """Ends an update that will not be finished, so that another may start; nothing happens where there is none.

        What a half-loaded layer lacks is left as memory was found: only a whole update makes a model of it again.
        """
        with set_current_vllm_config(self.vllm_config):
            self.weight_transfer_engine.finish_weight_update()
        self._weight_update_active = False


if BACKEND not in WeightTransferEngineFactory._registry:  # the module may be imported again under pytest
    WeightTransferEngineFactory.register_engine(BACKEND, BucketTransfer)
