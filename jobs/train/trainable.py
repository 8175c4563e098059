"""Can this model be trained as a stage asks? Answered from its small files and the headers of its weights."""

from dataclasses import dataclass

from cluster.storage import Store
from configs.errors import UserError
from configs.schema.objectives import Lora
from configs.schema.training import TrainStage
from jobs.estimate.shape import ModelShape
from jobs.train.attention import UnsupportedModel
from jobs.train.initial import where_from
from jobs.train.model import Head, PackedModel, build_on_meta, check_length, read_config
from jobs.train.nf4 import nf4_shapes
from jobs.train.objectives import objective_of


@dataclass(frozen=True)
class Trainable:
    """Sizes that memory, disk and time follow from.

    Example:
        Trainable(trained=134_515_008, shape=ModelShape(layers=30, hidden=576, ...))
    """

    trained: int
    """Numbers that are trained: with adapters, those only."""
    shape: ModelShape
    """Of the language model, without adapters."""


def require_trainable(
    model: Store, trust_remote_code: bool, stage: TrainStage, row_tokens: int | None = None
) -> Trainable:
    """`require_computable` as a training stage needs it."""
    return require_computable(model, trust_remote_code, objective_of(stage).head, stage.lora, row_tokens)


def require_computable(
    model: Store, trust_remote_code: bool, head: Head, lora: Lora | None, row_tokens: int | None = None
) -> Trainable:
    """Builds the model without memory and compares it with its weights.

    Args:
        row_tokens: of the longest row that will be trained on, where that is known.

    Raises:
        UnsupportedModel: the engine would compute something else, or transformers cannot build what config.json says.
        WeightsError: tensors are missing, left over or of another shape.
        AdapterError: `lora` names modules that the model does not have.
    """
    try:
        module = _build(model, trust_remote_code, head, lora)
        if row_tokens is not None and module.longest_segment is not None:
            check_length(row_tokens, module.longest_segment)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{model.root} cannot be trained: {error}") from error
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    where_from(model, shapes | nf4_shapes(module), head)
    return Trainable(_trained(module), shape_of(model, trust_remote_code))


def measure(model: Store, trust_remote_code: bool, head: Head = "logprobs", lora: Lora | None = None) -> Trainable:
    """Sizes of a model of which config.json is enough. Raises UnsupportedModel, AdapterError."""
    return Trainable(_trained(_build(model, trust_remote_code, head, lora)), shape_of(model, trust_remote_code))


def shape_of(model: Store, trust_remote_code: bool) -> ModelShape:
    """Builds the language model without memory and counts. Raises UnsupportedModel."""
    module = _build(model, trust_remote_code, "logprobs", None)
    config = module.model.config
    of_layers = [sum(parameter.numel() for parameter in layer.parameters()) for layer in module.layers]
    whole = sum(parameter.numel() for parameter in module.parameters())
    return ModelShape(
        layers=len(module.layers), hidden=config.hidden_size, heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate=config.intermediate_size, vocabulary=config.vocab_size, tied=module.lm_head is None,
        layer_parameters=max(of_layers), root_parameters=whole - sum(of_layers), parameters=whole,
    )  # fmt: skip


def _trained(module: PackedModel) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _build(model: Store, trust_remote_code: bool, head: Head, lora: Lora | None) -> PackedModel:
    try:
        config = read_config(model, trust_remote_code)
        return build_on_meta(config, trust_remote_code, head, lora)
    except UserError:
        raise
    except Exception as error:
        # Sizes that contradict each other, or a class that transformers lists for no decoder, end in whatever torch raises.
        said = " ".join(str(error).split())[:300]
        raise UnsupportedModel(
            f"transformers cannot build a decoder from its config.json ({type(error).__name__}: {said})"
        ) from error
