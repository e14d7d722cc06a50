"""Compile a network to a serialised TensorRT engine, with any package that has the API of TensorRT.

Types are those of the network (strongly typed); TF32 is off, because FP32 in the graph means FP32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from scorer.bundle.manifest import BatchProfile, Manifest
from scorer.errors import BundleMismatch

_SHOWN_ERRORS = 3
_Tensor = tuple[str, Any, tuple[int, ...]]  # name, type, shape


@dataclass(frozen=True, slots=True, eq=False)
class NetworkDefinition:
    """A network in TensorRT's API, before it is built.

    Attributes:
        source: where it is from, for messages.
        builder, network: of TensorRT.
        describe_errors: returns the errors that TensorRT logged, in one line.
        owner: what the network refers to, kept alive.
    """

    source: str
    builder: Any
    network: Any
    describe_errors: Callable[[], str]
    owner: object


def compile_network(
    onnx: Path,
    manifest: Manifest,
    batches: BatchProfile,
    tensorrt: ModuleType,
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> bytes:
    """Return the plan of the graph at `onnx`, whose tensors must match `manifest`.

    Args:
        onnx: the graph.
        manifest: of the graph's bundle.
        batches: the optimisation profile.
        tensorrt: the module `tensorrt`, or `tensorrt_rtx`, which needs no GPU but builds for its own runtime only.
        read: returns the bytes of the graph; a bundle checks them.

    Raises:
        BundleMismatch: the file is not a network, its tensors differ, or TensorRT cannot build it.
    """
    errors = _LoggedErrors()
    logger = _open_logger(tensorrt, errors)
    builder = tensorrt.Builder(logger)
    # TensorRT 11 has strong types only and ignores the flag; 10 needs it.
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(read(onnx)):
        first = parser.get_error(0).desc() if parser.num_errors else errors.describe()
        message = f"{onnx} is not a network that TensorRT reads: {' '.join(first.split())}"
        raise BundleMismatch(message)
    definition = NetworkDefinition(str(onnx), builder, network, errors.describe, (parser, logger))
    return build_network(definition, manifest, batches, tensorrt)


def build_network(
    definition: NetworkDefinition, manifest: Manifest, batches: BatchProfile, tensorrt: ModuleType
) -> bytes:
    """Return the plan of a network, whose tensors must match `manifest`; see `compile_network`."""
    builder, network = definition.builder, definition.network
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    found = [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
    if difference := _compare_tensors(found, manifest, tensorrt):
        message = f"{definition.source} {difference}: export the bundle again"
        raise BundleMismatch(message)
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    profile, crop = builder.create_optimization_profile(), network.get_input(0).shape[1:]
    profile.set_shape(manifest.input_tensor, *((count, *crop) for count in (batches.min, batches.opt, batches.max)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        message = f"TensorRT cannot build a plan of {definition.source}: {definition.describe_errors()}"
        raise BundleMismatch(message)
    return bytes(plan)


def check_engine(engine: Any, manifest: Manifest, tensorrt: ModuleType) -> None:  # noqa: ANN401 - untyped
    """Compare the tensors of a loaded engine with the manifest's.

    Raises:
        BundleMismatch: a name, a type or a shape differs.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    names.sort(key=lambda name: engine.get_tensor_mode(name) != tensorrt.TensorIOMode.INPUT)  # in no stated order
    found = [(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))) for name in names]
    if difference := _compare_tensors(found, manifest, tensorrt):
        message = f"the plan {difference}: build it again"
        raise BundleMismatch(message)


def _compare_tensors(found: list[_Tensor], manifest: Manifest, tensorrt: ModuleType) -> str:
    """Return how the tensors differ from those of the manifest; an empty text if they do not."""
    side = manifest.preprocess.size
    stated: list[_Tensor] = [
        (manifest.input_tensor, tensorrt.uint8, (-1, side, side, 3)),
        (manifest.output_tensor, tensorrt.float32, (-1, manifest.feature_size)),
    ]
    if found == stated:
        return ""
    words = [
        ", ".join(f"{name} {str(kind).rpartition('.')[2].lower()} {list(shape)}" for name, kind, shape in tensors)
        for tensors in (found, stated)
    ]
    return f"has the tensors {words[0]}, where the manifest states {words[1]}"


class _LoggedErrors(list[str]):
    """The errors that TensorRT logged."""

    def describe(self) -> str:
        """Return the first errors in one line."""
        return " / ".join(" ".join(text.split()) for text in self[:_SHOWN_ERRORS]) or "it logged no error"


def _open_logger(tensorrt: ModuleType, errors: _LoggedErrors) -> Any:  # noqa: ANN401 - untyped
    """Return a logger that stores errors and discards all other messages."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc,name-defined]  # its base is known when it runs
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:  # noqa: ANN401 - untyped
            if severity in {tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR}:
                errors.append(text)

    return Logger()
