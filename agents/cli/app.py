"""The command line: ``face-align``."""

from __future__ import annotations

import errno
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from face_align_env.agents.cli.benchmark import benchmark, benchmark_report, benchmark_tune, compare, speed
from face_align_env.agents.cli.collect import collect
from face_align_env.agents.cli.data import data_app
from face_align_env.agents.cli.examples import epilog
from face_align_env.agents.cli.export import export
from face_align_env.agents.cli.options import console
from face_align_env.agents.cli.photos import align, track
from face_align_env.agents.cli.studies import (
    ablate,
    calibrate,
    evaluate,
    release,
    robustness,
    summarize,
    tradeoff,
    watch,
)
from face_align_env.agents.cli.sweep import sweep
from face_align_env.agents.cli.train import pretrain_app, run, train
from face_align_env.agents.cli.web import app as web_app
from face_align_env.pretrain.settings import SettingError
from face_align_env.progress import Progress

RESUMABLE = ("align", "run", "train", "pretrain", "benchmark", "ablate", "sweep", "data")
# What a user can cause. Anything else is a mistake of this program's.
EXPECTED = (ValueError, OSError, ModuleNotFoundError, FloatingPointError, MemoryError)


class Commands(TyperGroup):
    """All commands. Whatever goes wrong in one of them ends here, in one message."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        :raises typer.Exit: something went wrong, and has been said
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            resumed = ctx.invoked_subcommand in RESUMABLE
            _complain("Interrupted." + (" The same command goes on where it was." if resumed else ""))
            raise typer.Exit(130) from error
        except Exception as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise  # typer's own
            if ctx.params.get("debug") or getattr(error, "errno", None) == errno.EPIPE:
                raise
            _complain(f"Error: {describe(error)}")
            raise typer.Exit(2 if isinstance(error, SettingError) else 1) from error


def describe(error: Exception) -> str:
    """What a user has to know of an error."""
    if isinstance(error, SettingError):
        return f"{error.flag} {error.message}" if error.flag else str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"'{error.filename}': " if error.filename else ""
        cure = {errno.ENOSPC: " Make room there.", errno.EACCES: " Choose another folder, or change its rights."}
        return f"{where}{error.strerror}.{cure.get(error.errno or 0, '')}"
    if isinstance(error, EXPECTED) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return str(error) or type(error).__name__
    return (
        f"{type(error).__name__}: {error}. This is a defect of face-align: please report it with what "
        "'face-align --debug COMMAND ...' prints."
    )


def _complain(text: str) -> None:
    # Looked up now: a test, and a notebook, have another standard error.
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


# The commands in the order of the help, by what they are for.
GROUPS: dict[str, tuple[Any, ...]] = {
    "Photos": (align, track, export, web_app),
    "Data": (data_app, collect),
    "Training": (run, pretrain_app, train, sweep),
    "Study of a run": (evaluate, robustness, tradeoff, ablate, calibrate, summarize, watch, release),
    "Benchmark": (benchmark, benchmark_tune, benchmark_report, compare, speed),
}


def _make_app() -> typer.Typer:
    made = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
    for panel, commands in GROUPS.items():
        for command in commands:
            if isinstance(command, typer.Typer):
                for each in command.registered_commands:
                    each.epilog = epilog(f"{command.info.name} {_name(each)}")
                made.add_typer(command, rich_help_panel=panel)
            else:
                made.command(rich_help_panel=panel, epilog=epilog(command.__name__.replace("_", "-")))(command)
    return made


def _name(command: Any) -> str:
    return str(command.name or command.callback.__name__)


app = _make_app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"face-align-env {version('face-align-env')}")
        raise typer.Exit


@app.callback()
def face_align(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors, and show no progress.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="FACE_ALIGN_DEBUG", help="Show the traceback of an error.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Face alignment as reinforcement learning: train, evaluate and run DCRN on FaceAlign-v0.

    Every command describes its options and shows examples with --help. --install-completion teaches your shell to
    complete commands and options.
    """
    console.quiet = Progress.quiet = quiet


def main() -> None:
    """The entry point."""
    app()
