"""What the corpus and shards stages of a run would take on nodes that nobody has to have.

    run file -> stages -> files of the sources (names and sizes) -> jobs/estimate/corpus*.py -> one PreparationEstimate a stage

Calculated from measured rates of one core and `CorpusAssumptions`, not run.
"""

import glob
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError
from configs.schema.corpus import CorpusStage, ShardsStage, Source
from configs.schema.run import Run
from jobs.corpus.hub_files import PREFIX as HUB
from jobs.corpus.inputs import find_inputs
from jobs.corpus.quality import quality_of
from jobs.corpus.schema import DataError
from jobs.corpus.suffixes import kind_of
from jobs.corpus.unpack import PACKED_SUFFIXES
from jobs.estimate.corpus import StepTime, corpus_steps, shards_steps
from jobs.estimate.corpus_limits import Limit, Prospect, limits_of, prospect
from jobs.estimate.corpus_rates import KINDS, OTHER_NAMES, CorpusAssumptions
from jobs.estimate.corpus_work import (
    CorpusWork,
    Nodes,
    ShardsWork,
    SourceFiles,
    Volumes,
    corpus_volumes,
    shards_volumes,
)

NOT_HERE_BYTES = 1e9
"""Of a source that is not here, in the mix of those whose sizes together are assumed."""


@dataclass(frozen=True)
class PreparationEstimate:
    """Of a corpus or shards stage, with as many partitions as are needed.

    Example:
        PreparationEstimate("papers", CorpusWork(...), asked=8, volumes=Volumes(...), steps=[StepTime(...)], limits=[Limit(...)],
                            prospect=Prospect(...))
    """

    name: str
    work: CorpusWork | ShardsWork
    asked: int
    """Partitions or shards of the config."""
    volumes: Volumes
    steps: list[StepTime]
    limits: list[Limit]
    """All of them, with the partitions of `work`."""
    prospect: Prospect

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


def estimate_preparation(run: Run, nodes: Nodes) -> list[PreparationEstimate]:
    """Of every corpus and shards stage, in order.

    Raises:
        UserError: the run has none of them, or one with `repeated_paragraphs`.
        DataError: a source is not here, and no size is assumed; or nothing says what its files are.
    """
    found = {name: _estimate(name, work, nodes) for name, work in _corpora(run, nodes.assumed).items()}
    for name, stage in run.stages.items():
        if isinstance(stage, ShardsStage):
            corpus = found[stage.corpus].work
            assert isinstance(corpus, CorpusWork), stage.corpus
            work = ShardsWork(corpus.text, corpus.partitions, stage.shards, stage.context, stage.rows != "text")
            found[name] = _estimate(name, work, nodes)
    if not found:
        raise UserError(
            f"--on {nodes.cluster}: no stage of {run.name} prepares a corpus or shards; for models give GPUs, e.g. --on 8xH100"
        )
    return [found[name] for name in run.stages if name in found]


def _estimate(name: str, work: CorpusWork | ShardsWork, nodes: Nodes) -> PreparationEstimate:
    ahead = prospect(work, nodes)
    mended = ahead.mended
    if isinstance(mended, CorpusWork):
        volumes, steps = corpus_volumes(mended, nodes), corpus_steps(mended, nodes)
    else:
        volumes, steps = shards_volumes(mended, nodes), shards_steps(mended, nodes)
    return PreparationEstimate(name, mended, work.partitions, volumes, steps, limits_of(mended, nodes), ahead)


def _corpora(run: Run, assumed: CorpusAssumptions) -> dict[str, CorpusWork]:
    """All corpora of the run, of the sizes they are or of the one that is assumed for all together."""
    found = {
        name: _corpus(name, stage, assumed) for name, stage in run.stages.items() if isinstance(stage, CorpusStage)
    }
    if assumed.corpus_bytes is None or not found:
        return found
    factor = assumed.corpus_bytes / sum(work.size for work in found.values())

    def sized(source: SourceFiles) -> SourceFiles:
        size = source.size * factor
        return replace(source, size=size, files=max(1, round(size / assumed.file_bytes)))

    return {name: replace(work, sources=tuple(map(sized, work.sources))) for name, work in found.items()}


def _corpus(name: str, stage: CorpusStage, assumed: CorpusAssumptions) -> CorpusWork:
    if stage.repeated_paragraphs is not None:
        raise UserError(
            f"stages.{name}.repeated_paragraphs: its rates are not measured, so nothing is calculated with it; "
            f"calculate without them: stages.{name}.repeated_paragraphs=null"
        )
    return CorpusWork(
        tuple(files for source in stage.sources for files in _files_of(name, source, stage, assumed)),
        stage.partitions, stage.pii.tier, stage.near_duplicates is not None, stage.decontamination is not None,
    )  # fmt: skip


def _files_of(stage_name: str, name: str, stage: CorpusStage, assumed: CorpusAssumptions) -> list[SourceFiles]:
    """The files of one source, by kind. Where a size is assumed, nothing is asked over a network."""
    source, place = stage.sources[name], f"stages.{stage_name}.sources.{name}"
    is_remote = source.path.startswith(("s3://", HUB))
    sizes = [(source.path, NOT_HERE_BYTES)]
    if assumed.corpus_bytes is None or (not is_remote and _is_here(source)):
        alone = stage.model_copy(update={"sources": {name: source}})
        sizes = [(file.uri, file.size) for file in find_inputs(alone, Path.cwd())]
    kinds: dict[tuple[str, str | None], list[float]] = {}
    for uri, size in sizes:
        packing = next((end for end in PACKED_SUFFIXES if uri.lower().endswith(end)), None)
        kinds.setdefault((_kind(uri, source, place), packing and packing[1:]), []).append(size)
    quality = quality_of(stage, name)
    return [
        SourceFiles(
            kind, packing, sum(found), len(found), not is_remote, _layout(source),
            bool(quality.thresholds), bool(quality.languages),
        )
        for (kind, packing), found in kinds.items()
    ]  # fmt: skip


def _is_here(source: Source) -> bool:
    return bool(glob.glob(str(Path.cwd() / Path(source.path).expanduser()), recursive=True))


def _kind(uri: str, source: Source, place: str) -> str:
    """Raises DataError where neither the file's name nor `format` says it."""
    named = source.format if source.format in {*KINDS, *OTHER_NAMES} else kind_of(uri)
    kind = OTHER_NAMES.get(named, named) if named else None
    if kind not in KINDS:
        raise DataError(
            f"{place}: nothing says what {uri} is; set `format` to one of {', '.join({**KINDS, **OTHER_NAMES})}"
        )
    return kind


def _layout(source: Source) -> str:
    """What was measured that is most like it: single kinds cost about what the web's do."""
    if source.layout.document == "paper":
        return "paper"
    return "web" if source.layout.kinds else "none"
