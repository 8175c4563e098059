"""The command line: `acclimate VERB`. Parses, then imports; exit codes are those of configs/errors.py."""

import os
import signal
import sys

import typer

from configs.errors import Stopped, user_error_inside
from jobs.cli import cluster, data, doctor, inspect, merging, plan, run, samples, serving

app = typer.Typer(
    name="acclimate",
    help="Take a language model into your own domain: corpus, CPT, SFT, evaluation and serving on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    plan.plan, run.run, cluster.submit, cluster.status, cluster.logs, inspect.ls, cluster.stop, run.evaluate_models,
    serving.serve, merging.merge, samples.samples, inspect.lineage, inspect.gc, inspect.schema, doctor.doctor,
):  # fmt: skip
    app.command(name="eval" if verb is run.evaluate_models else None)(verb)
app.add_typer(data.app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `acclimate` command; `arguments` are those of the process where None."""
    try:
        try:
            app(arguments)
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # Typer's exit code for it is 1, ours for a defect
                raise ended.__context__ from None
            raise
        finally:
            sys.stdout.flush()
    except Stopped as stopped:
        typer.echo(stopped, err=True)
        sys.exit(stopped.exit_code)
    except BrokenPipeError:
        # `acclimate ls | head -1` has read what it wanted. What is left in the buffer goes nowhere, or Python would
        # complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        known = user_error_inside(error)  # a Ray task or actor may have raised it
        if known is None:
            raise
        typer.echo(f"error: {known}", err=True)
        sys.exit(known.exit_code)
