"""The protocol's protobuf classes, in a descriptor pool of their own.

tritonclient registers the same names in protobuf's default pool; a private pool lets both live in one process.
"""

from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE: Final = "inference.GRPCInferenceService"

INFER: Final = f"/{SERVICE}/ModelInfer"
"""The method that answers requests for inferences, as a call names it."""


def _load() -> descriptor_pool.DescriptorPool:
    content = files("tierflow.protocol").joinpath("open_inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL: Final = _load()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest: Final = _message("ServerLiveRequest")
ServerLiveResponse: Final = _message("ServerLiveResponse")
ServerReadyRequest: Final = _message("ServerReadyRequest")
ServerReadyResponse: Final = _message("ServerReadyResponse")
ModelReadyRequest: Final = _message("ModelReadyRequest")
ModelReadyResponse: Final = _message("ModelReadyResponse")
ServerMetadataRequest: Final = _message("ServerMetadataRequest")
ServerMetadataResponse: Final = _message("ServerMetadataResponse")
ModelMetadataRequest: Final = _message("ModelMetadataRequest")
ModelMetadataResponse: Final = _message("ModelMetadataResponse")
ModelInferRequest: Final = _message("ModelInferRequest")
ModelInferResponse: Final = _message("ModelInferResponse")
