"""Python that travels with a model is not covered by the tests of a family, so it is tried before it is used.

two random texts --in one row, with another neighbour, alone--> their values: equal bits, equal numbers
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from configs.errors import UserError
from jobs.records import PackedRow
from jobs.train.attention import UnsupportedModel
from jobs.train.batch import PackedBatch, pack_rows

LENGTHS = (13, 21)
"""Tokens of the two texts."""
TOLERANCES = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 5e-2}
"""By how much a value may differ between a text alone and in a row, relative to the largest: other shapes of matrices, other
rounding. A leak shows in the bits."""


def check_packing(forward: Callable[[PackedBatch], Tensor], vocabulary: int, precision: str) -> None:
    """Tries a model whose class is its own. All ranks call it together.

    Args:
        forward: of a loaded Learner, with whatever head it has. A new head of values, which is 0, shows nothing.
        vocabulary: token ids are below it.

    Raises:
        UnsupportedModel: texts in one row see each other, or are counted through.
    """
    generator = torch.Generator().manual_seed(0)
    first, second, other_first, other_second = (
        torch.randint(vocabulary, (length,), generator=generator).tolist() for length in (*LENGTHS, *LENGTHS)
    )
    try:
        row = _values(forward, [first, second])
        alone = [_values(forward, [text])[0] for text in (first, second)]
        beside_others = (_values(forward, [first, other_second])[0], _values(forward, [other_first, second])[1])
    except UserError:
        raise
    except Exception as error:
        # It is called as transformers' own decoders are; what its code makes of that is anybody's guess.
        raise UnsupportedModel(
            f"the model's own Python code fails on packed texts ({type(error).__name__}: {error}). {_HOW_TO_MEND}"
        ) from error
    if not all(torch.equal(*pair) for pair in zip(row, beside_others, strict=True)):
        raise UnsupportedModel(f"with the model's own Python code texts in one row see each other. {_HOW_TO_MEND}")
    off = max(float((packed - own).abs().max()) for packed, own in zip(row, alone, strict=True))
    largest = max(1.0, *(float(own.abs().max()) for own in alone))
    if not off <= TOLERANCES[precision] * largest:
        raise UnsupportedModel(
            f"with the model's own Python code a text gives other values in a row than alone (by up to {off:.2g}): are its "
            f"positions counted through the row? {_HOW_TO_MEND}"
        )


_HOW_TO_MEND = (
    "Its attention must call transformers' attention interface and pass its keyword arguments on, and its positions must be "
    "`position_ids`, as in transformers' Llama; or choose a model that transformers knows."
)


def _values(forward: Callable[[PackedBatch], Tensor], texts: Sequence[list[int]]) -> list[Tensor]:
    """What a head gives of each text in one row: a value for each token but the first, or one score."""
    weights = [float(place > 0) for text in texts for place in range(len(text))]
    ids = [token for text in texts for token in text]
    values = forward(pack_rows([PackedRow(ids, weights, [len(text) for text in texts], [0] * len(texts))])).cpu()
    per_text = [1 if len(values) == len(texts) else len(text) - 1 for text in texts]
    return list(values.split(per_text))
