"""Which models the engine computes as transformers does: families by name, and what their configs may not ask for.

    config.json --check_config--> nothing | UnsupportedModel with the key and how to mend it

A family is listed when tests/train/test_attention_leak.py has a tiny model of it.
"""

from transformers import PreTrainedConfig

from jobs.train.attention import UnsupportedModel

FAMILIES = frozenset(
    {
        "cohere", "cohere2", "ernie4_5", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "granite", "helium", "llama",
        "mistral", "olmo", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2",
    }
)  # fmt: skip
"""By model_type. In another one transformers may compute something from a whole row that belongs to a text: positions, a
recurrence, a mask."""

COMPUTED_FOR = {
    "sliding_window": frozenset(
        {"mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo3", "smollm3", "cohere2"}
    ),
    "attn_logit_softcapping": frozenset({"gemma2"}),
    "final_logit_softcapping": frozenset({"gemma2", "gemma3_text"}),
    "logit_scale": frozenset({"cohere", "cohere2"}),
    "logits_scaling": frozenset({"granite"}),
}
"""Config keys that change attention or logits, and the families where that is computed as transformers does (the tests hold
each). In another family transformers may leave a window to the mask alone, which does not exist here."""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
OTHER_INPUTS = ("vision_config", "audio_config", "text_config")


def brings_own_code(config: PreTrainedConfig, trust_remote_code: bool) -> bool:
    """Whether the model is computed by Python files beside its weights."""
    return trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})


def check_config(config: PreTrainedConfig, own_code: bool = False) -> None:
    """Raises UnsupportedModel, naming the key, where attention or logits would not be what the model defines.

    Args:
        own_code: the model's class is its own, of which a family says nothing; jobs/train/own_code.py tries it instead.
    """
    values = config.to_dict()
    name = values.get("model_type")
    if values.get("is_encoder_decoder"):
        raise UnsupportedModel(f"model_type {name}: an encoder-decoder model is not supported; choose a decoder")
    for key in OTHER_INPUTS:
        if values.get(key) is not None:
            raise UnsupportedModel(
                f"model_type {name}: {key} says that the model reads more than text; only text models are trained. "
                "Choose one, or save its language model alone"
            )
    for key in EXPERTS:
        if values.get(key):
            raise UnsupportedModel(
                f"model_type {name}: {key} = {values[key]}: mixtures of experts are not supported, their routing would not "
                "be balanced; choose a dense model"
            )
    if values.get("quantization_config") is not None:
        raise UnsupportedModel(f"model_type {name}: quantised weights are not trained; export the model in bf16 first")
    if values.get("use_bidirectional_attention"):
        raise UnsupportedModel(
            f"model_type {name}: use_bidirectional_attention is not supported; choose a causal model"
        )
    layer_types = set(values.get("layer_types") or [])
    other_layers = sorted(layer_types - {"full_attention", "sliding_attention"})
    if other_layers:
        raise UnsupportedModel(f"model_type {name}: layers of type {', '.join(other_layers)} are not supported")
    if name not in FAMILIES and not own_code:
        raise UnsupportedModel(
            f"model_type {name}: it is not known whether packed texts would see each other in it; choose a model of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    for key, families in COMPUTED_FOR.items():
        unused = key == "sliding_window" and layer_types == {"full_attention"}
        if values.get(key) not in (None, 1.0) and not unused and name not in families:
            raise UnsupportedModel(
                f"model_type {name}: {key} = {values[key]!r} is supported for {', '.join(sorted(families))} only; choose "
                f"one of these{', or set it to null if no segment is longer' if key == 'sliding_window' else ''}"
            )
    for key, value in values.items():
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, int | float) and value > 0:
            # Dropout would draw from a global generator: a resumed run would differ.
            raise UnsupportedModel(f"model_type {name}: {key} = {value}; set it to 0 in config.json")
