"""sdlms: measure, explain and exploit sparse, modular structure in dense language models."""

import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sdlms.command import add_stage
from sdlms.errors import UserError, did_you_mean
from sdlms.options import dashed
from sdlms.stages import (
    capture,
    dynamic_k,
    logit_lens,
    probe,
    report,
    sae_evaluate,
    sae_latents,
    sae_train,
    scaling,
    si_modularity,
)
from sdlms.tools import models as models_tool
from sdlms.tools import runs as runs_tool
from sdlms.tools.explore import add_explore
from sdlms.tools.pipeline import add_pipeline

STAGES = (
    *(capture, sae_train, sae_latents, sae_evaluate, probe, si_modularity, dynamic_k),
    *(logit_lens, scaling, report),
)
# Read when torch is loaded, so set before; whoever sets them otherwise is obeyed.
ENVIRONMENT = {
    # OpenMP's threads otherwise wait for each other by spinning, which beside one other busy
    # process makes small forwards ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # oneDNN otherwise keeps 1,024 compiled products, one per shape: 300 MB, hardly used again.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",
}

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
NAMED = {dashed(stage.__name__.rpartition(".")[2]): stage for stage in STAGES}
for _name, _stage in NAMED.items():
    add_stage(app, _name, _stage.Config, _stage.run)
add_pipeline(app, {name: stage.Config for name, stage in NAMED.items()})
add_explore(app)
app.add_typer(models_tool.app, name="models")
app.add_typer(runs_tool.app, name="runs")


def _show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        from sdlms.runs.provenance import package_version

        typer.echo(f"sdlms {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 the user can mend it, 3 check failed, 130 stopped.

    Anything else that is raised is our bug: its traceback is shown and the code is 1.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What a scheduler sends before it kills: like Ctrl-C, it leaves a run that can be resumed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(args=arguments, prog_name="sdlms", standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # a group of commands was named alone: this is its help
            typer.echo(message, err=True)
            sys.exit(2)
        _fail(_with_our_hint(message))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _with_our_hint(message: str) -> str:
    """Typer's message about an unknown option, its suggestion worded like ours."""
    match = re.fullmatch(r"(No such option: (\S+)) \(Possible options: (.+)\)", message)
    return f"{match[1]}.{did_you_mean(match[2], match[3].split(', '))}" if match else message


def _fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    typer.echo(f"sdlms: {' '.join(message.splitlines())}", err=True)
    sys.exit(2)
