"""What the operator's parts call a pipeline among themselves."""

from typing import NamedTuple


class PipelineKey(NamedTuple):
    """Names one InferencePipeline of the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
