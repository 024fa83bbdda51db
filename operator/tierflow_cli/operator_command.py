"""`tierflow operator`: the control plane on a cluster, from wherever this command runs."""

import typer

OPERATOR_CONTEXT = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    # The operator's own help lists its flags; a second list here would only grow old.
    "help_option_names": [],
}


def operator(context: typer.Context) -> int:
    """Watches InferencePipelines on a cluster and keeps their workers as planned; needs the extra `operator`.

    The flags are those of `tierflow-operator`; `tierflow operator --help` lists them.
    """
    from tierflow.errors import UnsupportedError

    try:
        from tierflow_operator.main import main
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing.startswith("tierflow"):
            raise
        raise UnsupportedError(
            f"the operator needs {missing}, which is not installed: pip install 'tierflow[operator]'", subject=missing
        ) from error
    return main(context.args, program="tierflow operator")
