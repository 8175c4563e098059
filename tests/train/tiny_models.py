"""Model directories of a few thousand parameters, one for each family the engine is tested with."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GraniteConfig,
    HeliumConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    Starcoder2Config,
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

WINDOW = 16
"""Of the families with a sliding window: shorter than the longest segments of the tests."""
MIXED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, "factor": 4.0,
    "short_factor": [1.5] * 4, "long_factor": [4.0] * 4,
}  # fmt: skip

FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama_untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama_linear": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    "llama_yarn": LlamaConfig(
        **SIZES,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "llama_llama3": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "original_max_position_embeddings": 32,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2_window": Qwen2Config(**SIZES, use_sliding_window=True, **MIXED, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "qwen3_window": Qwen3Config(**SIZES, head_dim=16, use_sliding_window=True, **MIXED, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None, tie_word_embeddings=False),
    "mistral_window": MistralConfig(**SIZES, sliding_window=WINDOW, tie_word_embeddings=False),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(
        **SIZES, **MIXED, head_dim=16, query_pre_attn_scalar=16, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "gemma3": Gemma3TextConfig(**SIZES, **MIXED, head_dim=16, query_pre_attn_scalar=16),
    "olmo": OlmoConfig(**SIZES, clip_qkv=0.5, tie_word_embeddings=False),
    "olmo2": Olmo2Config(**SIZES, tie_word_embeddings=False),
    "olmo3": Olmo3Config(**SIZES, **MIXED, tie_word_embeddings=False),
    "phi3": Phi3Config(**SIZES, sliding_window=None, tie_word_embeddings=False),
    "phi3_window": Phi3Config(**SIZES, sliding_window=WINDOW, tie_word_embeddings=False),
    "phi3_long": Phi3Config(
        **SIZES, rope_parameters=LONG_ROPE, original_max_position_embeddings=64, tie_word_embeddings=False
    ),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0], tie_word_embeddings=True),
    "smollm3_window": SmolLM3Config(
        **SIZES, no_rope_layers=[1, 0], use_sliding_window=True, **MIXED, tie_word_embeddings=True
    ),
    "granite": GraniteConfig(
        **SIZES, logits_scaling=2.0, embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.2
    ),
    "cohere": CohereConfig(**SIZES, logit_scale=0.5, use_qk_norm=True),
    "cohere2": Cohere2Config(**SIZES, **MIXED, logit_scale=0.5),
    "ernie4_5": Ernie4_5Config(**SIZES, head_dim=16, tie_word_embeddings=True),
    "glm": GlmConfig(**SIZES, head_dim=16),
    "glm4": Glm4Config(**SIZES, head_dim=16),
    "helium": HeliumConfig(**SIZES, head_dim=8),
    "starcoder2": Starcoder2Config(**SIZES, sliding_window=None, use_bias=True),
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
