"""Compiles `open_inference.proto` into the descriptor set beside it: `python -m tierflow.protocol.compile`.

For development: needs grpcio-tools, which nothing else here does.
"""

import importlib.resources
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("open_inference.proto")
DESCRIPTOR_SET = SOURCE.with_suffix(".binpb")


def compile_proto(target: Path) -> None:
    """Writes the descriptor set of `open_inference.proto` to `target`.

    Raises:
        ImportError: where grpcio-tools is missing.
        RuntimeError: where protoc refuses the file; it has printed why.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types

    includes = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{SOURCE.parent}", f"-I{includes}", f"--descriptor_set_out={target}", SOURCE.name]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc refused {SOURCE}")


if __name__ == "__main__":
    compile_proto(DESCRIPTOR_SET)
    sys.stdout.write(f"wrote {DESCRIPTOR_SET}\n")
