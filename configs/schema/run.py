"""The root of the config tree: a run is a store, a cluster and named stages."""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.evaluation import EvaluateStage, ReportStage
from configs.schema.licences import Licence
from configs.schema.mix import MixStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.training import AnyTrainStage, DpoStage, KtoStage, LanguageModelStage, RewardStage, TrainStage
from configs.schema.tree import Node, PositiveInt, StageName, recorded_only

ARTIFACT_PREFIX = "artifact:"
"""A stage input written `artifact:KEY` names a finished artifact of the store instead of a stage of this run."""

UNKNOWN_LICENCE = "LicenseRef-unknown"


class RopeScaling(Node):
    """Rotary angles for texts longer than those of pre-training, in the names of transformers' and vLLM's config.json.

    Training on such texts has to follow: the first steps only bring the model back to what it was.
    """

    rope_type: Literal["linear", "yarn", "llama3"] = Field(
        description="linear: positions / factor (arXiv 2306.15595); yarn: by wavelength (arXiv 2309.00071); llama3: Llama 3.1's."
    )
    factor: float = Field(gt=1, description="How many times the context of pre-training.")
    attention_factor: float | None = Field(
        default=None, gt=0, description="yarn: by what cos and sin are multiplied; default: 0.1 ln(factor) + 1."
    )
    beta_fast: float | None = Field(default=None, gt=0, description="yarn; default 32.")
    beta_slow: float | None = Field(default=None, gt=0, description="yarn; default 1.")
    low_freq_factor: float | None = Field(default=None, gt=0, description="llama3; default 1.")
    high_freq_factor: float | None = Field(default=None, gt=0, description="llama3; default 4.")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kind = values.get("rope_type")
        if kind in ("dynamic", "longrope"):
            raise ValueError(
                f"rope_type {kind}: the angles depend on the longest text in memory, so a text would turn its neighbours; "
                "choose yarn or linear"
            )
        of_kind = {
            "yarn": ("attention_factor", "beta_fast", "beta_slow"),
            "llama3": ("low_freq_factor", "high_freq_factor"),
        }
        unused = [name for other, names in of_kind.items() if other != kind for name in names if name in values]
        if kind in ("linear", "yarn", "llama3") and unused:
            raise ValueError(f"{', '.join(unused)}: not a setting of rope_type {kind}")
        # transformers has no defaults for these two.
        return {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **values} if kind == "llama3" else values


class ModelStage(Node):
    """A model from outside -> a model artifact that every node can read."""

    stage: Literal["model"]
    source: str = Field(description="A local directory, s3://..., artifact:KEY, or hf:ORG/NAME@COMMIT.")
    chat_template: str | None = Field(
        default=None,
        description="`instruction`, `trl:NAME` (a template of the installed TRL, for example trl:qwen3_training), a path to a "
        "Jinja file, or null to keep the model's own.",
    )
    licence: Licence = Field(
        default=UNKNOWN_LICENCE, description="SPDX expression of the model's licence; goes into lineage."
    )
    rope_scaling: RopeScaling | None = Field(
        default=None,
        description="Lengthens the context; goes into config.json, so training and serving have the same angles.",
    )
    added_tokens: list[Annotated[str, Field(min_length=1, pattern=r"^\S+$")]] = Field(
        default=[],
        description="Special tokens to append to the tokenizer, such as <|user|>, for the chat template to write: spelt in a "
        "text they are ordinary words, and in a message refused. Their rows of the embedding and the head begin as the mean of "
        "the others and have to be learnt: by full training, or `lora.train_whole: [embed_tokens]`.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run the Python files that lie beside the weights, wherever this model or what is trained from it is used.",
    )

    @field_validator("added_tokens")
    @classmethod
    def _once_each(cls, tokens: list[str]) -> list[str]:
        repeated = next((token for token in tokens if tokens.count(token) > 1), None)
        if repeated is not None:
            raise ValueError(f"{repeated!r} is there twice; remove one")
        return tokens


Stage = Annotated[
    ModelStage | CorpusStage | ShardsStage | MixStage | AnyTrainStage | PpoStage | EvaluateStage | ReportStage,
    Field(discriminator="stage"),
]


LARGEST_SEED = 2**32 - 1
"""What every generator takes that a run's seed enters, also where a step is mixed into 64 bits (Learner.draw_dropout)."""
LOCAL_CPUS = 4
"""Logical CPUs of a local Ray at least: serving needs 3 (ingress, replica, engine), whatever the machine has."""


class Cluster(Node):
    """Which Ray runs the stages."""

    address: str = Field(
        default="local", description="local: start Ray here; auto: the cluster this host belongs to; HOST:PORT."
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if address not in ("local", "auto") and not re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
            raise ValueError(
                f"{address!r} is not an address: give `local`, `auto` or HOST:PORT (the head's GCS, usually 6379)"
            )
        return address

    logical_cpus: PositiveInt | None = Field(
        default=None, description="CPUs a local Ray offers; default: the cores of the machine, at least 4."
    )

    @property
    def offered_cpus(self) -> int:
        """Logical CPUs of a Ray that is started here."""
        return self.logical_cpus or max(LOCAL_CPUS, os.cpu_count() or 1)


class Run(Node):
    """One run: what is computed (`stages`), where it is kept (`store`), where it is run (`cluster`)."""

    name: StageName
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    store: str = Field(default="artifacts", description="Artifact root: a directory or s3://bucket/prefix.")
    cluster: Cluster = recorded_only(Cluster())
    tracking: Literal["tensorboard", "wandb", "none"] = recorded_only("tensorboard")
    stages: dict[StageName, Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _inputs_exist_and_fit(self) -> "Run":
        seen: dict[str, str] = {}
        for name, stage in self.stages.items():
            self._adapters_can_start(name, stage)
            self._mix_fits(name, stage)
            self._can_be_compared(name, stage)
            for key, wanted_kinds, input_name in stage_inputs(stage):
                if input_name.startswith(ARTIFACT_PREFIX):
                    continue
                if input_name not in seen:
                    known = ", ".join(seen) or "none"
                    raise ValueError(
                        f"stages.{name}.{key}: no earlier stage is called {input_name!r} (earlier: {known})"
                    )
                if seen[input_name] not in wanted_kinds:
                    raise ValueError(
                        f"stages.{name}.{key}: {input_name!r} is a {seen[input_name]} stage, "
                        f"needed: {' or '.join(wanted_kinds)}"
                    )
            seen[name] = stage.stage
        return self

    def _adapters_can_start(self, name: str, stage: Stage) -> None:
        if not isinstance(stage, TrainStage) or stage.lora is None or stage.lora.start == "merge":
            return
        before = self.stages.get(stage.model)
        if before is not None and not (isinstance(before, TrainStage) and before.lora is not None):
            raise ValueError(
                f"stages.{name}.lora.start: {stage.model!r} has no adapters to continue; give it `lora`, or leave `start` out"
            )

    def _can_be_compared(self, name: str, stage: Stage) -> None:
        if not isinstance(stage, CorpusStage) or stage.near_duplicates is None:
            return
        for index, earlier in enumerate(stage.near_duplicates.against):
            before = self.stages.get(earlier)
            if isinstance(before, CorpusStage) and before.near_duplicates is None:
                raise ValueError(
                    f"stages.{name}.near_duplicates.against.{index}: {earlier!r} keeps no signatures to compare with; give it "
                    "`near_duplicates: {}` too"
                )

    def _mix_fits(self, name: str, stage: Stage) -> None:
        if not isinstance(stage, MixStage):
            return
        mixed = shards_behind(self, name)
        for key, _, input_name in stage_inputs(stage):
            if input_name in mixed and mixed[input_name].rows not in MIXED_ROWS:
                raise ValueError(
                    f"stages.{name}.{key}: {input_name!r} has `rows: {mixed[input_name].rows}`; what can be mixed are rows of "
                    f"{' and '.join(MIXED_ROWS)}"
                )
        if len({shards.context for shards in mixed.values()}) > 1:
            found = ", ".join(f"{each} {shards.context}" for each, shards in mixed.items())
            raise ValueError(f"stages.{name}.shares: rows of one mix have one `context`; there are {found}")


MODEL_KINDS = ("model", "cpt", "sft", "dpo", "kto", "orpo", "ppo")
"""Stages whose artifact is a language model; `reward` gives one that scores instead."""

TRAINED_KINDS = (*MODEL_KINDS[1:], "reward")


MIXED_ROWS = ("text", "messages")
"""Rows that a mix takes: packed ones, of which each is learnt by the next token."""


Input = tuple[str, tuple[str, ...], str]


def stage_inputs(stage: Stage) -> list[Input]:
    """The inputs of a stage as (config key, kinds that fit, name of the stage or artifact), in a fixed order."""
    match stage:
        case ModelStage():
            if stage.source.startswith(ARTIFACT_PREFIX):
                return [("source", MODEL_KINDS, stage.source)]
            return []
        case CorpusStage():
            settings = {"near_duplicates": stage.near_duplicates, "decontamination": stage.decontamination}
            return [
                (f"{key}.against.{index}", ("corpus",), name)
                for key, setting in settings.items()
                if setting is not None
                for index, name in enumerate(setting.against)
            ]
        case ShardsStage():
            return [("corpus", ("corpus",), stage.corpus), ("model", MODEL_KINDS, stage.model)]
        case MixStage():
            inputs = [(f"shares.{name}", ("shards",), name) for name in sorted(stage.shares)]
            return inputs if stage.replay is None else [*inputs, ("replay.shards", ("shards",), stage.replay.shards)]
        case TrainStage():
            models = (*MODEL_KINDS, "reward") if isinstance(stage, RewardStage) else MODEL_KINDS
            packed = ("shards", "mix") if isinstance(stage, LanguageModelStage) else ("shards",)
            inputs: list[Input] = [("model", models, stage.model), ("shards", packed, stage.shards)]
            if isinstance(stage, DpoStage | KtoStage) and stage.reference is not None:
                inputs.append(("reference", MODEL_KINDS, stage.reference))
            if stage.heldout is not None and stage.heldout.general is not None:
                inputs.append(("heldout.general", ("shards",), stage.heldout.general))
            return inputs
        case PpoStage():
            inputs = [("model", MODEL_KINDS, stage.model), ("shards", ("shards",), stage.shards)]
            if stage.needs_reference and stage.reference is not None:
                inputs.append(("reference", MODEL_KINDS, stage.reference))
            if stage.critic is not None:
                inputs.append(("critic", (*MODEL_KINDS, "reward"), stage.critic))
            judges = [(f"rewards.{number}", source) for number, source in enumerate(stage.rewards)]
            if stage.heldout is not None and stage.heldout.gold is not None:
                judges.append(("heldout.gold", stage.heldout.gold))
            return inputs + [(key, ("reward",), source.model) for key, source in judges if source.model is not None]
        case EvaluateStage():
            scored: list[Input] = [(f"models.{index}", MODEL_KINDS, name) for index, name in enumerate(stage.models)]
            sets: list[Input] = [
                (f"sets.{name}.corpus", ("corpus",), chosen.corpus) for name, chosen in stage.sets.items()
            ]
            answers: list[Input] = [("answers.corpus", ("corpus",), stage.answers.corpus)] if stage.answers else []
            return scored + sets + answers
        case ReportStage():
            return [("evaluation", ("evaluate",), stage.evaluation)]


def shards_behind(run: Run, name: str) -> dict[str, ShardsStage]:
    """The shards stages of the run that stage `name` is or mixes, by name; not those that are artifacts."""
    stage = run.stages.get(name)
    names = [input_name for _, _, input_name in stage_inputs(stage)] if isinstance(stage, MixStage) else [name]
    found = {each: run.stages.get(each) for each in names}
    return {each: shards for each, shards in found.items() if isinstance(shards, ShardsStage)}
