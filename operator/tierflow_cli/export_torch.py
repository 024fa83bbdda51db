"""Exports a PyTorch model to ONNX and checks the file against PyTorch's own answer.

torch is imported by nothing else, and here only when a function is called: it comes with the extra `[torch]`.
"""

import contextlib
import importlib
import inspect
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from tierflow.errors import InvalidInputError, MismatchError, UnsupportedError
from tierflow.segment import closest

if TYPE_CHECKING:
    from tierflow_worker.runtime import Session

TOLERANCE: Final = 1e-4
"""Of the largest absolute value of an output. Wider than between cuts of one ONNX model: torch has other kernels."""

_IMAGE: Final = (1, 3, 224, 224)
_SEED: Final = 0

Module = Any
"""A `torch.nn.Module`, whose type is not known where torch is not installed."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported.

    Attributes:
        name: What to call it in messages and in the file.
        program: A `torch.nn.Module`, or a `torch.export.ExportedProgram`.
        module: The module that computes the same in torch.
        example: Its positional inputs: tensors, or containers of such.
    """

    name: str
    program: Any
    module: Module
    example: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file and how it compares with torch.

    Attributes:
        path: The file.
        layers: Number of its ONNX nodes.
        inputs: Shapes by name.
        outputs: Names.
        largest_relative_difference: Between ONNX Runtime and torch eager, over all outputs.
    """

    path: Path
    layers: int
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    largest_relative_difference: float


def load_source(
    text: str, *, input_shapes: Mapping[str, Sequence[int]] | None = None, weights: str | None = None
) -> Source:
    """Finds the model that `text` means.

    Args:
        text: The path of a `.pt2` file, `package.module:factory`, or the name of a torchvision model. A factory takes
            no arguments and returns a module, or a module and the tuple of its example inputs; instead of a factory, a
            module's instance or class is taken as well. Its package may be in the current folder.
        input_shapes: Shapes of float32 example inputs by the name of `forward`'s parameter, for what brings no example
            inputs; torchvision's models take the size of image that they were trained with by default.
        weights: Of torchvision's models: the name of published weights, like `DEFAULT`; random, but always the same,
            where None.

    Raises:
        UnsupportedError: where torch, or torchvision, is not installed.
        InvalidInputError: where there is no such model, or its inputs can't be made.
    """
    torch = _torch()
    shapes = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    suffix = Path(text).suffix
    if weights is not None and (suffix or ":" in text):
        raise InvalidInputError(f"weights can only be chosen for torchvision's models, not for {text}", subject=text)
    torch.manual_seed(_SEED)
    if suffix == ".pt2":
        return _program_source(torch, Path(text), shapes)
    if suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        raise InvalidInputError(
            f"{text} holds weights without the model that they belong to: give package.module:factory for a function "
            "that makes the model and loads them, or a .pt2 file that torch.export.save wrote",
            subject=text,
        )
    if ":" in text:
        return _factory_source(torch, text, shapes)
    return _torchvision_source(torch, text, shapes, weights)


def module_source(
    module: Module,
    *,
    example: Sequence[Any] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    name: str = "",
) -> Source:
    """A module of the caller's own, with example inputs or the shapes of float32 ones.

    Raises:
        UnsupportedError: where torch is not installed.
        InvalidInputError: where neither is given, or a shape's name is no parameter of `forward`.
    """
    torch = _torch()
    name = name or type(module).__name__
    if isinstance(module, torch.export.ExportedProgram):
        inputs = tuple(example) or _examples_of(module, name)
        return Source(name, module, module.module(), inputs)
    module.eval()
    inputs = tuple(example) or _examples(torch, module, name, {k: tuple(v) for k, v in (input_shapes or {}).items()})
    return Source(name, module, module, inputs)


def export_source(source: Source, path: Path, *, tolerance: float = TOLERANCE) -> Exported:
    """Writes the ONNX file of a model, once ONNX Runtime's answer to it was compared with torch eager's.

    Compared on the example inputs and on others of the same shapes, so that a value that the export took from the
    example for a constant is found out.

    Raises:
        UnsupportedError: where torch is not installed, or its exporter or ONNX Runtime can't do with the model.
        MismatchError: where the answers differ by more than `tolerance`.
        InvalidInputError: where the folder to write into is missing.
    """
    torch = _torch()
    if not path.parent.is_dir():
        raise InvalidInputError(f"there is no folder {path.parent} to write {path.name} into", subject=str(path))
    # What was at `path` before stays until the new file is known to be right.
    with tempfile.TemporaryDirectory(prefix=".tierflow-", dir=path.parent) as folder:
        unchecked = Path(folder, path.name)
        _write(torch, source, unchecked)
        exported = _compared(torch, source, unchecked)
        difference = exported.largest_relative_difference
        if difference > tolerance:
            raise MismatchError(
                f"{source.name}: ONNX Runtime's answer differs from torch's by {difference:.2g} of the largest output, "
                f"more than {tolerance:g}; the model may depend on chance or on its inputs' values in a way that an "
                "export can't follow",
                subject=source.name,
            )
        for written in Path(folder).iterdir():  # weights beside the model, where they are too large for it
            written.replace(path.with_name(written.name))
    return replace(exported, path=path)


def _torch() -> Any:
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("onnxscript")  # what torch's exporter stands on
    except ImportError as error:
        raise UnsupportedError(
            f"exporting needs {error.name or 'torch'}, which is not installed: pip install 'tierflow[torch]'",
            subject=error.name or "torch",
        ) from error
    return torch


def _program_source(torch: Any, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Source:
    if shapes:
        raise InvalidInputError(f"{path} has fixed inputs; export the program again with others", subject=str(path))
    if not path.is_file():
        raise InvalidInputError(f"there is no file {path}; check the path", subject=str(path))
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InvalidInputError(
            f"{path} is no program that torch.export.save wrote: {_first_line(error)}", subject=str(path)
        ) from error
    return module_source(program, name=path.stem)


def _factory_source(torch: Any, text: str, shapes: Mapping[str, tuple[int, ...]]) -> Source:
    made = _called(text)
    example: tuple[Any, ...] = ()
    if isinstance(made, tuple) and len(made) == 2:
        made, given = made
        example = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if not isinstance(made, (torch.nn.Module, torch.export.ExportedProgram)):
        raise InvalidInputError(
            f"{text} gives a {type(made).__name__}; it must return a torch.nn.Module, or one and its example inputs",
            subject=text,
        )
    return module_source(made, example=() if shapes else example, input_shapes=shapes, name=text.partition(":")[2])


def _called(text: str) -> Any:
    """What the factory that `text` names returns."""
    place, _, attribute = text.partition(":")
    with _current_folder_importable():
        try:
            found: Any = importlib.import_module(place)
        except ImportError as error:
            raise InvalidInputError(
                f"{text}: {error}; write package.module:factory, importable from here", subject=text
            ) from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise InvalidInputError(f"{text}: there is no {part!r}{closest(part, dir(found))}", subject=text)
            found = getattr(found, part)
        if not callable(found) or (hasattr(found, "state_dict") and not isinstance(found, type)):
            return found
        try:
            return found()
        except Exception as error:
            raise InvalidInputError(
                f"{text} failed: {type(error).__name__}: {_first_line(error)}; it is called without arguments",
                subject=text,
            ) from error


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _torchvision_source(torch: Any, name: str, shapes: Mapping[str, tuple[int, ...]], weights: str | None) -> Source:
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise UnsupportedError(
            f"{name} would be a model of torchvision, which is not installed: pip install torchvision, or give a .pt2 "
            "file or package.module:factory",
            subject=name,
        ) from error
    known = models.list_models()
    if name not in known:
        raise InvalidInputError(
            f"torchvision has no model {name!r}{closest(name, known)}; else give a .pt2 file or package.module:factory",
            subject=name,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, on how it makes random weights
        try:
            module = models.get_model(name, weights=weights)
        except (ValueError, KeyError) as error:
            raise InvalidInputError(f"{name} has no weights {weights}: {_first_line(error)}", subject=name) from error
        except OSError as error:
            raise InvalidInputError(
                f"the weights of {name} can't be had: {_first_line(error)}", subject=name
            ) from error
    if shapes:
        return module_source(module, input_shapes=shapes, name=name)
    return module_source(module, example=(torch.randn(_image_shape(models, name)),), name=name)


def _image_shape(models: Any, name: str) -> tuple[int, ...]:
    """The images that the published weights were trained with; they aren't fetched for that."""
    published = getattr(models.get_model_weights(name), "DEFAULT", None)
    crop = getattr(published.transforms(), "crop_size", None) if published is not None else None
    return (*_IMAGE[:2], crop[0], crop[0]) if isinstance(crop, (list, tuple)) else _IMAGE


def _examples(torch: Any, module: Module, name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, ...]:
    parameters = inspect.signature(module.forward).parameters.values()
    positional = [
        known.name for known in parameters if known.kind in (known.POSITIONAL_ONLY, known.POSITIONAL_OR_KEYWORD)
    ]
    required = [known.name for known in parameters if known.name in positional and known.default is known.empty]
    unknown = [given for given in shapes if given not in positional]
    if unknown:
        raise InvalidInputError(
            f"forward of {name} has no parameter {unknown[0]!r}{closest(unknown[0], positional)}; it has "
            f"{', '.join(positional) or 'none by name'}",
            subject=unknown[0],
        )
    given = positional[: max((positional.index(known) + 1 for known in shapes), default=0)]
    missing = [known for known in (*required, *given) if known not in shapes]
    if missing:
        raise InvalidInputError(
            f"the shape of {name}'s input {missing[0]!r} is not known: give it like --input {missing[0]}=1,3,224,224, "
            "or have the factory return the module and its example inputs",
            subject=missing[0],
        )
    return tuple(torch.randn(shapes[known]) for known in given)


def _examples_of(program: Any, name: str) -> tuple[Any, ...]:
    arguments, keywords = program.example_inputs or ((), {})
    if keywords:
        raise UnsupportedError(
            f"{name} takes inputs by keyword ({', '.join(keywords)}); export it again with positional ones",
            subject=name,
        )
    return tuple(arguments)


def _write(torch: Any, source: Source, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on its own internals
        try:
            program = torch.onnx.export(source.program, source.example, dynamo=True, verbose=False)
            # Weights go into a file beside it only where protobuf's limit of 2 GB wants it.
            program.save(str(path))
        except Exception as error:
            raise UnsupportedError(
                f"torch can't export {source.name} to ONNX: {_first_line(error)}", subject=source.name
            ) from error


def _compared(torch: Any, source: Source, path: Path) -> Exported:
    import onnx

    from tierflow_worker.runtime import create_session

    session = create_session(path)
    examples = (source.example, _others(torch, source.example))
    graph = onnx.load(path, load_external_data=False).graph
    return Exported(
        path=path,
        layers=len(graph.node),
        inputs={value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in graph.input},
        outputs=tuple(session.outputs),
        largest_relative_difference=max(_difference(torch, source, session, example) for example in examples),
    )


def _difference(torch: Any, source: Source, session: "Session", example: tuple[Any, ...]) -> float:
    """The largest relative difference of an output of the session from torch eager's."""
    from tierflow_worker.verification import relative_difference

    with torch.no_grad():
        wanted = _tensors(torch, source.module(*example))
    fed = _tensors(torch, example)
    if (len(fed), len(wanted)) != (len(session.inputs), len(session.outputs)):
        raise MismatchError(
            f"{source.name}: the exported model has {len(session.inputs)} inputs and {len(session.outputs)} outputs, "
            f"torch's has {len(fed)} and {len(wanted)}",
            subject=source.name,
        )
    answer = session.run(dict(zip(session.inputs, fed, strict=True)))
    return max(relative_difference(got, want) for got, want in zip(answer.values(), wanted, strict=True))


def _tensors(torch: Any, tree: Any) -> list[NDArray[Any]]:
    """The tensors in a structure of tuples, lists and dictionaries, in torch's own order."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf.detach().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _others(torch: Any, example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs of the same shapes with other floats; integers may be indices, and stay."""

    def other(leaf: Any) -> Any:
        is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return torch.randn(leaf.shape, dtype=leaf.dtype) if is_float else leaf

    made: tuple[Any, ...] = torch.utils._pytree.tree_map(other, example)
    return made


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
