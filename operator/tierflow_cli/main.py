"""The command `tierflow`: assembles the commands, and turns what goes wrong into a message and an exit code.

Exit codes: 0 done; 1 a check failed; 2 bad usage or bad input; 70 a defect of Tierflow itself; 130 interrupted.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from tierflow.errors import MismatchError, TierflowError
from tierflow_cli.console import print_error
from tierflow_cli.export_command import EXPORT_EXAMPLES, export
from tierflow_cli.operator_command import OPERATOR_CONTEXT, operator
from tierflow_cli.plan_command import PLAN_EXAMPLES, plan
from tierflow_cli.profile_command import PROFILE_EXAMPLES, profile
from tierflow_cli.run_command import RUN_EXAMPLES, run
from tierflow_cli.simulate_command import SIMULATE_EXAMPLES, simulate
from tierflow_cli.verify_command import VERIFY_EXAMPLES, verify
from tierflow_cli.why_command import WHY_EXAMPLES, why
from tierflow_cli.zoo_command import ZOO_EXAMPLES, zoo

CHECK_FAILED: Final = 1
BAD_INPUT: Final = 2
DEFECT: Final = 70
INTERRUPTED: Final = 130

app = typer.Typer(
    name="tierflow",
    help="Splits a neural network over device, edge and cloud, and serves it losslessly.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 bad usage or bad input.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=PLAN_EXAMPLES)(plan)
app.command(epilog=RUN_EXAMPLES)(run)
app.command(epilog=SIMULATE_EXAMPLES)(simulate)
app.command(epilog=WHY_EXAMPLES)(why)
app.command(epilog=VERIFY_EXAMPLES)(verify)
app.command(epilog=ZOO_EXAMPLES)(zoo)
app.command(epilog=PROFILE_EXAMPLES)(profile)
app.command(epilog=EXPORT_EXAMPLES)(export)
app.command(context_settings=OPERATOR_CONTEXT)(operator)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"tierflow {version('tierflow')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Prints the version and exits.", callback=_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Shows the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    """Splits a neural network over device, edge and cloud, and serves it losslessly."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; those of this process by default.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "--verbose" in given
    try:
        returned = app([argument for argument in given if argument != "--verbose"], standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough, as in `tierflow plan ... | head`; what is left in the buffer has no reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        return _reported(error, verbose=verbose)
    return returned if isinstance(returned, int) else 0


def _reported(error: Exception, *, verbose: bool) -> int:
    """Says what went wrong, and returns the exit code for it."""
    if verbose:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, TyperException):
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context else ""
        if message:  # there is none where the help was shown instead
            print_error(f"{message}{hint}")
        return BAD_INPUT
    if isinstance(error, TierflowError):
        print_error(error.message)
        return CHECK_FAILED if isinstance(error, MismatchError) else BAD_INPUT
    print_error(
        f"an error that Tierflow did not expect: {type(error).__name__}: {error}\n"
        "This is a defect: please report it with the output of the same command with --verbose."
    )
    return DEFECT


if __name__ == "__main__":
    sys.exit(main())
