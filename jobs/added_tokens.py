"""Tokens that a model did not have: appended to its tokenizer, its embedding and its head, before anything learns them.

    tokenizer + tokens --transformers--> tokenizer files, ids
    weights as given, ids --rows of the embedding and the head: mean of the old ones--> weights, config.json's vocab_size

A new row that is the mean gives the new token an average logit, where a random or zero row may put it above all others
(John Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021; transformers' `mean_resizing` draws
around the same mean). Here it is the mean itself, so the same import gives the same bytes.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.storage import Store
from jobs.model_files import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from jobs.train.weights import StoredTensor

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""What every decoder that is trained here calls them."""


def add_to_tokenizer(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[str], root: str) -> list[int]:
    """Appends special tokens; gives their ids. Raises ModelError where the tokenizer has one of them."""
    known = [token for token in tokens if token in tokenizer.get_vocab()]
    if known:
        raise ModelError(f"added_tokens: {known[0]!r} is in the tokenizer of {root} already; remove it from the list")
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    assert isinstance(ids, list) and len(set(ids)) == len(tokens), ids
    return ids


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", model: Store) -> None:
    """Puts its files over those of the model directory."""
    with tempfile.TemporaryDirectory(prefix="acclimate-tokenizer-") as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            model.put(path, path.name)


def extend_weights(given: Store, ids: Sequence[int], model: Store) -> None:
    """The weights of `given` in `model`, with rows for `ids`; config.json is in `model` and gets the new vocabulary.

    Rows of the embedding (and of the head, where it has its own) below the smallest new id belong to old tokens. Some
    models have more rows than tokens; then new tokens take rows that nothing was learnt for.

    Raises:
        ModelError: the embedding is called otherwise.
        jobs.train.weights.WeightsError: weights that cannot be read, quantised ones among them.
    """
    from jobs.train.export import write_tensors
    from jobs.train.weights import list_tensors

    stored = list_tensors(given)
    if EMBEDDING not in stored:
        raise ModelError(f"added_tokens: {given.root} has no {EMBEDDING}, so there is nothing to append rows to")
    rows = max(stored[EMBEDDING].shape[0], max(ids) + 1)
    extended = {name for name in (EMBEDDING, HEAD) if name in stored}
    places = {
        name: ((rows, *tensor.shape[1:]) if name in extended else tensor.shape, tensor.dtype)
        for name, tensor in stored.items()
    }
    write_tensors(
        places, lambda name: _read(given, stored[name], places[name][0], ids if name in extended else ()), model
    )
    config = model.read_json("config.json")
    sizes: dict[str, Any] = config.get("text_config") or config
    sizes["vocab_size"] = rows
    model.write_json("config.json", config)


def _read(given: Store, tensor: "StoredTensor", shape: Sequence[int], ids: Sequence[int]) -> "Tensor":
    """A whole tensor in its stored type, brought to `shape`; rows `ids` are the mean of those before them, taken in fp64."""
    import torch

    from jobs.train.weights import read_rows

    old = torch.empty(tensor.shape, dtype=tensor.dtype)
    read_rows(given, tensor, 0, old)
    if not ids:
        return old
    whole = old.new_zeros(tuple(shape))
    whole[: len(old)] = old
    whole[list(ids)] = old[: min(ids)].mean(0, dtype=torch.float64).to(old.dtype)
    return whole
