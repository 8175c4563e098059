"""Settings of the objectives that learn from judged answers, and of adapters."""

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.tree import Node, PositiveInt


class DpoLoss(Node):
    """Direct preference optimisation and its variants (jobs/train/objectives/dpo.py)."""

    kind: Literal["sigmoid", "sigmoid_norm", "robust", "hinge", "ipo"] = Field(
        default="sigmoid",
        description="sigmoid_norm: log-ratios per token, so that long answers gain nothing by length.",
    )
    beta: float = Field(default=0.1, gt=0, description="Strength of the pull to the reference.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Assumed share of swapped labels; for sigmoid, sigmoid_norm and robust."
    )
    sft_weight: float = Field(
        default=0.0, ge=0, description="Weight of the next-token loss of the chosen answers beside it."
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> Self:
        if self.label_smoothing and self.kind in ("hinge", "ipo"):
            raise ValueError(
                f"label_smoothing has no effect on kind: {self.kind}; choose sigmoid, sigmoid_norm or robust, or leave it out"
            )
        return self


class KtoLoss(Node):
    """Kahneman-Tversky optimisation (jobs/train/objectives/kto.py)."""

    beta: float = Field(default=0.1, gt=0, description="Strength of the pull to the reference.")
    desirable_weight: float = Field(default=1.0, gt=0, description="Of thumbs up.")
    undesirable_weight: float = Field(default=1.0, gt=0, description="Of thumbs down.")


class OrpoLoss(Node):
    """Odds-ratio preference optimisation (jobs/train/objectives/orpo.py)."""

    beta: float = Field(default=0.1, gt=0, description="Weight of the odds-ratio term; lambda in the paper.")
    sft_on: Literal["prompt_and_answer", "answer"] = Field(
        default="prompt_and_answer", description="Tokens of the language-model term, of the chosen answers."
    )


class RewardLoss(Node):
    """Bradley-Terry loss on pairs and rankings (jobs/train/objectives/reward.py)."""

    centring: float = Field(default=0.0, ge=0, description="Weight of the squared mean score; 0.01 is common.")


class Lora(Node):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685); the model itself stays as it is."""

    rank: PositiveInt = 16
    alpha: float = Field(default=32.0, gt=0, description="Scale of the update: alpha / rank, with rslora / sqrt(rank).")
    targets: Literal["all-linear"] | list[str] = Field(
        default="all-linear", description="all-linear: every linear layer but the head; or names such as q_proj."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rslora: bool = Field(default=False, description="Scale by alpha / sqrt(rank) (arXiv 2312.03732).")
    dora: bool = Field(default=False, description="Learn magnitude and direction apart (arXiv 2402.09353).")
    train_whole: list[str] = Field(
        default=[], description="Modules trained in full beside the adapters, e.g. embed_tokens for new tokens."
    )
    start: Literal["merge", "continue"] = Field(
        default="merge",
        description="Where `model` was trained with adapters itself: merge begins new ones on its merged weights, continue "
        "goes on with them on the weights below.",
    )
    base: Literal["as_stored", "nf4"] = Field(
        default="as_stored",
        description="nf4: the decoder's linear layers in 4 bits, whole on every rank (QLoRA, arXiv 2305.14314). The merged "
        "model then holds the dequantised weights, which the adapters were trained on.",
    )

    @model_validator(mode="after")
    def _magnitudes_need_weights(self) -> Self:
        if self.dora and self.base == "nf4":
            raise ValueError(
                "dora takes the norm of the weights at every step, which `base: nf4` does not keep; choose one"
            )
        return self
