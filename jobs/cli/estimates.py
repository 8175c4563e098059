"""`plan --on 8xH100`, and the memory of ranks under `plan`: numbers that are calculated, to two digits."""

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from jobs.estimate.rounding import rounded

if TYPE_CHECKING:
    from cluster.storage import Store
    from configs.schema.run import Run
    from jobs.estimate.time import Machine
    from jobs.preflight.memory import Share
    from jobs.preflight.on_cluster import PpoEstimate, TrainingEstimate

NOT_RUN = "calculated from data sheets and assumptions, not run"


def show_on(run: "Run", store: "Store", machine: "Machine", console: Console, as_json: bool) -> None:
    """Raises what jobs.preflight.on_cluster.estimate does."""
    from jobs.preflight.on_cluster import PpoEstimate, estimate

    found = estimate(run, store, machine)
    if as_json:
        document = {"run": run.name, "on": str(machine.cluster), "how": NOT_RUN, "assumed": vars(machine.assumed),
                    "stages": [row_of(stage, machine) for stage in found]}  # fmt: skip
        print(json.dumps(document, indent=2))  # noqa: T201 - data goes to stdout
        return
    console.print(f"{run.name} on {machine.cluster}: {NOT_RUN}", highlight=False)
    for stage in found:
        console.print()
        if isinstance(stage, PpoEstimate):
            _show_ppo(stage, console)
        else:
            _show_training(stage, console)
    console.print(
        f"\nassumed ({', '.join(f'{name} {value:g}' for name, value in vars(machine.assumed).items())})", style="dim"
    )
    console.print("change them by --assume NAME=VALUE; reasons and sources: jobs/estimate/hardware.py", style="dim")
    if any(stage.stage in ("corpus", "shards") for stage in run.stages.values()):
        console.print("corpora and shards are not in it: give nodes and their cores, e.g. --on 64x32CPU", style="dim")


def row_of(stage: "PpoEstimate | TrainingEstimate", machine: "Machine") -> dict[str, Any]:
    """For machines; bytes and seconds, to two digits."""
    from jobs.preflight.on_cluster import TrainingEstimate

    if isinstance(stage, TrainingEstimate):
        return {
            "name": stage.name, "parameters": stage.parameters, "ranks": stage.ranks, "tokens_per_step": stage.tokens,
            "memory_per_gpu": _rounded(stage.memory.parts()), "step_s": rounded(stage.step.seconds), "bound": stage.step.by,
            "tokens_per_s": rounded(stage.tokens / stage.step.seconds),
        }  # fmt: skip
    step = stage.step
    return {
        "name": stage.name, "parameters": stage.parameters, "work": stage.work, "searched": stage.searched,
        "resources": resources_of(stage),
        "memory_per_gpu": {role: _rounded(part.parts()) for role, part in step.memory.items()},
        "total_per_gpu": {role: rounded(part.total) for role, part in step.memory.items()},
        "usable_per_gpu": rounded(machine.usable_bytes), "answers_at_a_time": step.sampled_together,
        "phases": [
            {"role": role, "phase": phase, "seconds": rounded(bound.seconds), "bound": bound.by}
            for (role, phase), bound in step.phases.items()
        ],
        "sync_bytes": step.buckets.bytes, "sync_buckets_s": _rounded(step.buckets.legs),
        "sync_nccl_s": _rounded(step.nccl.legs),
        "step_s": rounded(step.seconds), "step_overlapped_s": rounded(step.overlapped_s),
        "idle": {role: rounded(step.idle(role)) for role in step.layout.ranks},
        "saturates": [
            {"role": limit.role, "gpus": limit.gpus, "seconds": rounded(limit.seconds), "bound": limit.by}
            for limit in stage.saturates
        ],
    }  # fmt: skip


def resources_of(stage: "PpoEstimate") -> dict[str, Any]:
    """What to write below `resources` of the stage for this layout."""
    from jobs.ppo.roles import ROLLOUT, resources_key

    layout = stage.step.layout
    models = {resources_key(role): {"ranks": ranks, "gpus_per_rank": 1} for role, ranks in layout.ranks.items()}
    samplers = {
        "ranks": layout.ranks[ROLLOUT], "gpus_per_rank": layout.tensor_parallel,
        "max_num_seqs": max(1, stage.step.sampled_together),
    }  # fmt: skip
    return {
        "placement": "colocated" if layout.shared else "separate",
        "transfer": layout.transfer,
        **models,
        ROLLOUT: samplers,
    }


def _show_ppo(stage: "PpoEstimate", console: Console) -> None:
    step = stage.step
    chosen = "the fastest layout found" if stage.searched else "the layout of its resources"
    table = table_of(
        f"{stage.name}: {stage.parameters / 1e9:.2g} B parameters; a step of {stage.work}; {chosen}, {step.layout.gpus} GPUs",
        "role", "GPUs", "GB on each", "of it", "phases", "idle",
    )  # fmt: skip
    for role, ranks in step.layout.ranks.items():
        part, parallel = step.memory[role], step.layout.tensor_parallel if role == "rollout" else 1
        held = ", ".join(f"{name.replace('_', ' ')} {_gb(size)}" for name, size in part.parts().items() if size > 5e7)
        phases = "; ".join(
            f"{phase} {_s(bound.seconds)} ({bound.by})" for (who, phase), bound in step.phases.items() if who == role
        )
        gpus = f"{ranks} x {parallel}" if parallel > 1 else str(ranks)
        idle = "" if step.layout.shared else f"{step.idle(role):.0%}"
        table.add_row(role, gpus, _gb(part.total), held, phases, idle)
    console.print(table)
    console.print(f"an engine samples {step.sampled_together} answers at a time", highlight=False)
    console.print(
        f"weight sync of {_gb(step.buckets.bytes)} GB: {_s(step.buckets.seconds)} in buckets ({_legs(step.buckets.legs)}); "
        f"{_s(step.nccl.seconds)} over nccl ({_legs(step.nccl.legs)}); the step is calculated with {step.layout.transfer}",
        highlight=False,
    )
    part, seconds = step.longest_part
    console.print(
        f"step: {_s(step.seconds)} with staleness 0, {_s(step.overlapped_s)} with staleness 1; its longest part is {part} "
        f"({_s(seconds)})",
        style="bold", highlight=False,
    )  # fmt: skip
    if step.layout.shared:
        console.print(
            "not run: there what learns waits in host memory (FSDP's CPU offload), whose way to the GPU and back is not counted",
            highlight=False,
        )
    for limit in stage.saturates:
        console.print(
            f"more than {limit.gpus} GPUs for {limit.role} would hardly help: there it takes {_s(limit.seconds)}, "
            f"then bound by {limit.by}",
            highlight=False,
        )
    if stage.searched:
        console.print(f"resources: {json.dumps(resources_of(stage))}", highlight=False, soft_wrap=True)


def _show_training(stage: "TrainingEstimate", console: Console) -> None:
    held = ", ".join(f"{name} {_gb(size)}" for name, size in stage.memory.parts().items() if size > 5e7)
    console.print(
        f"{stage.name}: {stage.parameters / 1e9:.2g} B parameters on {stage.ranks} GPUs: {_gb(stage.memory.total)} GB on each "
        f"({held}); a step of at most {stage.tokens:,.0f} tokens {_s(stage.step.seconds)} ({stage.step.by})",
        highlight=False,
    )


def memory_table(shares: "dict[str, list[Share]]") -> Table:
    """Under `plan`: what the ranks of every stage will hold."""
    table = table_of("memory (calculated)", "stage", "role", "ranks", "GiB on each", "of it")
    for name, of_stage in shares.items():
        for share in of_stage:
            held = ", ".join(
                f"{part.replace('_', ' ')} {size / 2**30:.2g}"
                for part, size in share.rank.parts().items()
                if size > 0.05 * share.rank.total
            )
            on = f" x {share.gpus_per_rank:g} GPU" if share.gpus_per_rank else ""
            table.add_row(name, share.role, f"{share.ranks}{on}", f"{share.rank.total / 2**30:.2g}", held)
    return table


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _legs(legs: dict[str, float]) -> str:
    return ", ".join(f"{leg} {_s(seconds)}" for leg, seconds in legs.items())


def _gb(size: float) -> str:
    return f"{rounded(size / 1e9):g}"


def _s(seconds: float) -> str:
    return f"{rounded(seconds):g} s"


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: rounded(value) for name, value in values.items()}
