"""What a cluster could do by its data sheets, and which share of that programs get. Every number here is published or assumed;
none of a GPU was measured by us, who had none.

    "8xH100" --parse_cluster--> ClusterShape        Assumptions: shares of the peaks, lengths of texts
    "64x32CPU" --parse_cluster--> CpuCluster        what is assumed of it: jobs/estimate/corpus_rates.py
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from configs.errors import UserError

Assumed = TypeVar("Assumed")


@dataclass(frozen=True)
class Gpu:
    """One GPU by its data sheet; bandwidths in bytes a second and one direction.

    Example:
        GPUS["H100"]
    """

    memory_bytes: float
    memory_bytes_per_s: float
    flops: dict[str, float]
    """By compute type, dense."""
    link_bytes_per_s: float
    """To the other GPUs of its node."""
    host_bytes_per_s: float
    """To the memory of its host."""


GPUS = {
    "H100": Gpu(80e9, 3.35e12, {"bf16": 989e12, "fp32": 67e12}, 450e9, 64e9),
    "H200": Gpu(141e9, 4.8e12, {"bf16": 989e12, "fp32": 67e12}, 450e9, 64e9),
    "A100": Gpu(80e9, 2.039e12, {"bf16": 312e12, "fp32": 19.5e12}, 300e9, 32e9),
}
"""SXM boards, from NVIDIA's data sheets "H100 Tensor Core GPU" (80 GB, 3.35 TB/s, 989 TFLOP/s bf16 without sparsity, NVLink 900
GB/s and PCIe Gen5 128 GB/s both ways together), "H200" (141 GB, 4.8 TB/s, else the same) and "A100 80GB" (2,039 GB/s, 312
TFLOP/s, NVLink 600 GB/s, PCIe Gen4)."""


@dataclass(frozen=True)
class ClusterShape:
    """GPUs of one kind in nodes.

    Example:
        ClusterShape("H100", gpus=64)
    """

    kind: str
    gpus: int
    gpus_per_node: int = 8
    network_bytes_per_s: float = 50e9
    """Of each GPU to other nodes: 400 Gb/s (NVIDIA DGX H100: eight ConnectX-7; so had Meta's Grand Teton in `Assumptions`)."""
    host_network_bytes_per_s: float = 12.5e9
    """Of a node's own interface, on which Ray sends objects: 100 Gb/s (DGX H100's Ethernet)."""

    @property
    def gpu(self) -> Gpu:
        return GPUS[self.kind]

    def __str__(self) -> str:
        return f"{self.gpus}x{self.kind}"


@dataclass(frozen=True)
class CpuCluster:
    """Nodes without GPUs, on which corpora are prepared.

    Example:
        CpuCluster(nodes=64, cores=32)
    """

    nodes: int
    cores: int
    """Of each node."""

    def __str__(self) -> str:
        return f"{self.nodes}x{self.cores}CPU"


@dataclass(frozen=True)
class Assumptions:
    """What is neither in a config nor on a data sheet.

    Example:
        Assumptions(mean_answer_share=1.0)
    """

    compute_share: float = field(
        default=0.33,
        metadata={
            "why": "of dense FLOP/s in scoring, training and prefill: FSDP2 without compile, Llama 3.1 8B on 8 and 128 H100, "
            "measured by torchtitan (docs/performance.md: 33 %, 39 % with compile)"
        },
    )
    bandwidth_share: float = field(
        default=0.6,
        metadata={
            "why": "of HBM bandwidth in decoding and in the optimizer: the lower end of the 60 to 85 % that are reported for "
            "CUDA engines (open-source-ai.tech, glossary); a rule of thumb"
        },
    )
    link_share: float = field(
        default=0.8,
        metadata={
            "why": "of NVLink and network in collectives; nccl-tests come nearer to 1 for large messages, FSDP's are a layer"
        },
    )
    collective_latency_s: float = field(
        default=20e-6,
        metadata={"why": "of a small all-reduce in a node, two for each layer of a tensor-parallel engine; assumed"},
    )
    memory_share: float = field(
        default=0.92,
        metadata={
            "why": "of a GPU's memory that is planned with: gpu_memory_utilization of vLLM 0.29; the rest for CUDA and NCCL"
        },
    )
    pack_bytes_per_s: float = field(
        default=0.94e9,
        metadata={
            "why": "of rank 0's host in packing and hashing buckets and in Ray's store: measured on one core here by "
            "tests/benchmarks/bucket_speed.py, the median of 0.2 on pages that are new to 1.9 on others"
        },
    )
    open_bytes_per_s: float = field(
        default=10e9, metadata={"why": "of a sampler's host in checking buckets; measured likewise"}
    )
    mean_answer_share: float = field(
        default=0.5,
        metadata={
            "why": "mean answer / max_new_tokens, with one answer in every engine that runs to the limit: the long tail; "
            "assumed, it is a property of the data"
        },
    )
    mean_prompt_share: float = field(
        default=0.5, metadata={"why": "mean prompt / context of the prompts; assumed, a property of the data"}
    )

    def __post_init__(self) -> None:
        check_assumed(vars(self))


def check_assumed(values: Mapping[str, float | None]) -> None:
    """Raises UserError where one can not be; None is not assumed."""
    for name, value in values.items():
        if value is not None and (not value > 0 or (name.endswith("_share") and value > 1)):
            most = " and at most 1" if name.endswith("_share") else ""
            raise UserError(f"--assume {name}={value:g}: must be above 0{most}")


def parse_cluster(text: str) -> ClusterShape | CpuCluster:
    """ "8xH100" -> ClusterShape, "64x32CPU" (64 nodes of 32 cores) -> CpuCluster. Raises UserError."""
    nodes = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,3})CPU", text, re.IGNORECASE)
    if nodes is not None:
        return CpuCluster(int(nodes[1]), int(nodes[2]))
    match = re.fullmatch(r"([1-9]\d{0,4})x(\w+)", text, re.IGNORECASE)
    kind = match[2].upper() if match else ""
    if match is None or kind not in GPUS:
        raise UserError(
            f"--on {text}: give a number of GPUs and their kind, e.g. 8xH100; known: {', '.join(GPUS)}. Or nodes and the cores "
            "of each, e.g. 64x32CPU"
        )
    return ClusterShape(kind, int(match[1]))


def parse_assumptions(given: Sequence[str], kind: Callable[..., Assumed] = Assumptions) -> Assumed:
    """["mean_answer_share=1"] -> Assumptions, or another dataclass of numbers. Raises UserError."""
    known = [one.name for one in fields(cast(Any, kind))]
    values: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in known:
            raise UserError(f"--assume {text}: there is no {name!r}; known: {', '.join(known)}")
        try:
            values[name] = float(value)
        except ValueError:
            raise UserError(f"--assume {text}: {value!r} is not a number") from None
    return kind(**values)
