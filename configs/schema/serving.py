"""How a model is served. Credentials are not here: the API key comes from the environment (ACCLIMATE_API_KEY)."""

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.tree import Node, PositiveInt


class Serving(Node):
    """One model behind an OpenAI-compatible endpoint."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 offers the model to the network.")
    port: int = Field(default=8000, ge=1, le=65535)
    interface: Literal["chat", "completions"] = Field(
        default="chat", description="chat needs a chat template in the model; completions serves a model without one."
    )
    device: Literal["cpu", "gpu"] = "cpu"
    gpus_per_replica: PositiveInt = Field(
        default=1, description="Tensor-parallel GPUs of one replica; only with device: gpu."
    )
    threads_per_replica: PositiveInt | None = Field(
        default=None, description="CPU threads of one engine; default: the cores of the machine over the replicas."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="auto: the type the weights are stored in."
    )
    trust_remote_code: bool = Field(default=False, description="Run the Python files that lie beside the weights.")
    max_model_len: PositiveInt | None = Field(
        default=None, description="Longest prompt plus answer in tokens; default: the model's own limit."
    )
    kv_cache_gib: PositiveInt = Field(
        default=1, description="Memory of one CPU engine for keys and values, in whole GiB."
    )
    concurrent_requests: PositiveInt = Field(
        default=32, description="Requests one replica answers at the same time; as many again wait in it."
    )
    queued_requests: PositiveInt = Field(default=256, description="Requests that may wait for a replica; then 503.")
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1

    @model_validator(mode="after")
    def _replicas_are_a_range(self) -> "Serving":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})")
        return self
