"""The model files that a stage goes back to, and whether they read as many tokens as it wants."""

from dataclasses import dataclass

from cluster.storage import Store
from configs.errors import UserError
from configs.schema.run import RopeScaling


class ContextTooLong(UserError):
    """Rows longer than the model reads, or than a batch holds."""


@dataclass(frozen=True)
class Origin:
    """The model files that a stage goes back to, as they lie now."""

    directory: Store
    template: str | None
    """The Jinja text that the import will set; None where the model keeps its own."""
    trust_remote_code: bool
    rope_scaling: RopeScaling | None = None
    """What the import will write into config.json; None where it stays, or is done."""
    added_tokens: tuple[str, ...] = ()
    """What the import will append to the tokenizer."""


def check_context(key: str, tokens: int, model: str, origin: Origin) -> None:
    """Raises ContextTooLong where config key `key` asks for more tokens than the model reads."""
    window = window_of(origin)
    if window is not None and tokens > window:
        raise ContextTooLong(
            f"{key}: {tokens} tokens are more than {model} reads: its config.json says max_position_embeddings {window}. "
            f"Set {key} to {window} or less, or give the model stage `rope_scaling` to train longer ones."
        )


def window_of(origin: Origin) -> int | None:
    """Tokens that the model will read once it is imported. Raises RopeError."""
    from jobs.model_files import check_model
    from jobs.rope import WINDOW, scaled_config

    if origin.rope_scaling is None:
        return check_model(origin.directory).context
    return scaled_config(origin.directory.read_json("config.json"), origin.rope_scaling, origin.directory.root)[WINDOW]
