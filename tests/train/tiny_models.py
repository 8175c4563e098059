"""Model directories of a few thousand parameters, one for each family the engine is tested with."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 131
"""Odd on purpose: rows do not divide evenly over 2 or 4 ranks."""

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama_untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None, tie_word_embeddings=False),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "olmo2": Olmo2Config(**SIZES, tie_word_embeddings=False),
    "phi3": Phi3Config(**SIZES, sliding_window=None, tie_word_embeddings=False),
}


def save_tiny_model(directory: Path, family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Random weights, ten times wider than usual so that every layer moves the log-probabilities visibly."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    model.to(dtype).save_pretrained(directory)
    return directory
