"""Sizes of a decoder from which its memory and its time follow. Imports nothing heavy; jobs/train/trainable.py reads them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated MLPs, as its config.json describes it; parameters are counted on the model itself.

    Example:
        SmolLM2-135M: ModelShape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152,
                                 tied=True, layer_parameters=3540096, root_parameters=28312128, parameters=134515008)
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    """The head is the embedding."""
    layer_parameters: int
    """Of one decoder layer; of the largest where they differ."""
    root_parameters: int
    """Embedding, final norm, and the head where it is a matrix of its own."""
    parameters: int
    """Of all of them; what is tied counts once."""

    @property
    def head_parameters(self) -> int:
        """Of the matrix that makes logits, whether or not it is the embedding too."""
        return self.vocabulary * self.hidden

    @property
    def matrix_parameters(self) -> int:
        """What the hidden state of every token is multiplied with: the layers, without embedding and head."""
        return self.parameters - self.root_parameters

    @property
    def query_width(self) -> int:
        """Of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_numbers_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim
