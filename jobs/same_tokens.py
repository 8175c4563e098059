"""Whether rows and models mean the same tokens by the same numbers.

model --files of its tokenizer--> those of every shards artifact it meets;  --vocabulary--> that of the reference
"""

from collections.abc import Mapping

from cluster.artifacts import Artifact
from jobs.corpus.schema import DataError
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files


def check_same_tokens(name: str, inputs: Mapping[str, Artifact], trust_remote_code: bool) -> None:
    """Compares what a training stage reads with the model it trains.

    A reference gets token ids, no text: its template may be another one, its vocabulary may not.

    Args:
        name: of the stage.
        inputs: by config key, as configs.schema.run.stage_inputs gives them.

    Raises:
        DataError: with the input that does not fit.
    """
    model = inputs["model"]
    own = read_tokenizer_files(model.content.below("model"), trust_remote_code)
    for key in ("shards", "heldout.general"):
        if key not in inputs:
            continue
        shards = inputs[key]
        if shards.content.read_json("manifest.json")["tokenizer_sha256"] != own.sha256:
            setting = (
                f"stages.{shards.name}.model" if shards.kind == "shards" else f"`model` of what {shards.name} mixes"
            )
            raise DataError(
                f"stages.{name}.{key}: {shards.name} was made with another tokenizer or template than {model.name} has; "
                f"set {setting} to the model that is trained, or to one it comes from"
            )
    if "reference" in inputs:
        reference = inputs["reference"]
        other = read_tokenizer_files(reference.content.below("model"), trust_remote_code)
        if other.sha256 != own.sha256 and load_tokenizer(other).get_vocab() != load_tokenizer(own).get_vocab():
            raise DataError(
                f"stages.{name}.reference: {reference.name} has another vocabulary than {model.name}, so its log-probabilities "
                "would be of other words; set it to the model that is trained, or to one it comes from"
            )
