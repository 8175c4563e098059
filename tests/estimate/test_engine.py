"""Keys and values as vLLM itself would allocate them."""

import json
import subprocess
import sys

import pytest

from jobs.estimate.memory import kv_bytes_per_token
from tests.estimate.shapes import LLAMA_2_7B, LLAMA_3_70B, SMOLLM2_135M

PAGES = """
import json, sys, torch
from vllm.v1.kv_cache_interface import FullAttentionSpec
print(json.dumps([
    layers * FullAttentionSpec(block_size=block, num_kv_heads=heads, head_size=size, dtype=torch.bfloat16).page_size_bytes / block
    for layers, heads, size, block in json.loads(sys.argv[1])
]))
"""
"""In a process of its own: importing vLLM changes torch's threads."""


@pytest.mark.vllm
def test_a_token_takes_what_vllm_allocates() -> None:
    shapes = (SMOLLM2_135M, LLAMA_2_7B, LLAMA_3_70B)
    asked = json.dumps([[shape.layers, shape.kv_heads, shape.head_dim, 16] for shape in shapes])
    done = subprocess.run([sys.executable, "-c", PAGES, asked], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [kv_bytes_per_token(shape, "bf16") for shape in shapes]
