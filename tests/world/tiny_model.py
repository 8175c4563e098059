"""A random Llama of two layers with a real tokenizer, small enough to train and serve in a test's time."""

from pathlib import Path

END_OF_TEXT = "<|endoftext|>"

HEAD_DIMENSION = 32
"""The smallest that vLLM's CPU attention takes (32, 64, 80, ...)."""

INITIALIZER_RANGE = 0.08
"""Transformers' 0.02 leaves logits of a 64-wide model within 0.2 of each other; 0.08 spreads them by about 0.6."""

SENTENCES = (
    "The heart pumps blood through the arteries, and the veins carry it back again.",
    "A randomised trial with 240 patients compared the new treatment with the standard one.",
    "Results: survival after five years was 71 % in one group and 64 % in the other (p = 0.04).",
    "Write the conclusion from the other sections of the abstract.",
    "Cells were grown in culture for seven days before their proteins were measured.",
    "We found no difference between the two methods; further studies are needed.",
    "Instruction, context and response are the three parts of every question and its answer.",
    "Learning rate, batch size and number of steps decide how long the training of a model takes.",
    "Rivers carry sand and stones from the mountains down to the sea, where they form new land.",
    "Children who slept longer remembered more words on the following morning.",
)
"""What the tokenizer's merges are learnt from; enough for a vocabulary of 640."""


def write_tiny_model(
    path: Path, seed: int = 0, layers: int = 2, hidden: int = 64, vocabulary: int = 512, tied: bool = True
) -> Path:
    """Writes model and tokenizer in transformers' format; the same arguments give the same bytes. Returns `path`.

    Byte-level BPE of exactly `vocabulary` tokens, the first of which ends a text; no chat template, no padding token.
    fp32, grouped-query attention (two query heads for each key head).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = hidden // HEAD_DIMENSION
    assert heads * HEAD_DIMENSION == hidden and heads % 2 == 0, f"hidden must be a multiple of 64, not {hidden}"
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=HEAD_DIMENSION,
        max_position_embeddings=1024,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    _write_tokenizer(path, vocabulary)
    return path


def _write_tokenizer(path: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    size = tokenizer.get_vocab_size()
    assert size == vocabulary, f"the sentences give {size} tokens, not {vocabulary}"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(path)
