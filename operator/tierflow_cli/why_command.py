"""`tierflow why`: what a pipeline's plan is, and how it came to be."""

from pathlib import Path
from typing import Annotated

import typer

from tierflow_cli.options import JsonOption, examples

_CLUSTER = "Cluster"


def why(
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="The name of an InferencePipeline.", show_default=False)
    ],
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NAME",
            help="Its namespace. Default: the one of the kubeconfig's context.",
            rich_help_panel=_CLUSTER,
            show_default=False,
        ),
    ] = "",
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            "--kubeconfig",
            metavar="FILE",
            help="Where the cluster is. Default: $KUBECONFIG, else ~/.kube/config.",
            rich_help_panel=_CLUSTER,
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        str,
        typer.Option(
            "--context",
            metavar="NAME",
            help="A context of that file. Default: its current one.",
            rich_help_panel=_CLUSTER,
            show_default=False,
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Says which plan a pipeline has and why, what was decided lately, and what was held back.

    Works as `kubectl tierflow why` as well.
    """
    from tierflow_cli.why_cluster import seen
    from tierflow_cli.why_report import print_seen, report_of

    found = seen(pipeline, namespace, kubeconfig, context)
    if as_json:
        from tierflow_cli.console import print_json

        print_json(report_of(found))
    else:
        print_seen(found)


WHY_EXAMPLES = examples(
    "tierflow why resnet18 -n vision",
    "kubectl tierflow why resnet18 -n vision --context production",
    "tierflow why resnet18 --json",
)
