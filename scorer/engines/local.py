"""The engine in this process, on the device for which the bundle was built, with the reason for the choice."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ingest.detector_pool import DetectorUnusable
from ingest.device import Device, Kind, Request, resolve_built_device
from ingest.sandbox import TIMEOUT_S, Sandbox
from scorer.bundle.bundle import Bundle
from scorer.engines.base import SharedEmbedder
from scorer.engines.precut import PrecutEmbedder
from scorer.errors import BundleMismatch

_BUILT: dict[str, tuple[Kind, str]] = {
    "openvino": ("cpu", "the bundle {folder} is built for the CPU: export one with --target tensorrt"),
    "tensorrt": ("cuda", "the bundle {folder} is built for a GPU: export one with --target openvino to score on a CPU"),
}


@dataclass(frozen=True, slots=True, eq=False)
class LocalEngine:
    """An opened engine.

    Attributes:
        embedder: the engine; `share` it for other threads.
        device: where it runs, and the reason.
        name: of the engine, with its version.
        why: the reason for this engine.
    """

    embedder: SharedEmbedder
    device: Device
    name: str
    why: str


def choose_device(bundle: Bundle, request: Request) -> Device:
    """Return the device that scores with `bundle`, with the reason.

    Raises:
        DeviceUnavailable: the request differs from the device of the bundle, or there is no such device.
    """
    kind, built = _BUILT[bundle.manifest.target]
    return resolve_built_device(request, kind, built.format(folder=bundle.folder))


def open_sandbox(  # noqa: PLR0913 - the work of the processes
    bundle: Bundle,
    processes: int,
    *,
    finds: bool = True,
    cuts: bool = True,
    timeout_s: float = TIMEOUT_S,
    trust: str | None = None,
) -> Sandbox:
    """Return the sandbox that finds faces with the detector of `bundle` and cuts the faces for an engine on the CPU.

    An engine on a GPU decodes the images itself; HEIC, AVIF, JPEG XL and clips are cut here. `trust`: see `Sandbox`.

    Raises:
        DeviceUnavailable: see `Sandbox`.
        ModuleNotFoundError: a package that its processes load is missing.
    """
    manifest = bundle.manifest
    for module in (
        *(("openvino", "simplejpeg") if finds else ()),
        *(("nvidia.dali",) if cuts else ()),
        *(() if trust is None else ("c2pa",)),
    ):
        if find_spec(module) is None:
            raise ModuleNotFoundError(module, name=module.partition(".")[0])
    # The processes read the networks by path, now and after a restart.
    copies = bundle.copy(*(bundle.folder / name for name in manifest.detector.files))
    return Sandbox(
        Path(copies.name),
        manifest.detector if finds else None,
        manifest.preprocess,
        processes,
        timeout_s=timeout_s,
        cuts_images=cuts and manifest.target == "openvino",
        trust=trust,
        release=copies.cleanup,
    )


def start_sandbox(sandbox: Sandbox, count: int | None = None) -> None:
    """Start `count` processes of a sandbox; None starts all.

    Raises:
        BundleMismatch: the file of the detector is not the network that the manifest names.
        SandboxBroken: a process cannot be started.
    """
    try:
        sandbox.start(count)
    except DetectorUnusable as error:
        raise BundleMismatch(str(error)) from error


def open_local_engine(bundle: Bundle, request: Request, threads: int, sandbox: Sandbox) -> LocalEngine:
    """Open the engine of `bundle` on its device; `sandbox` cuts the faces that the engine does not.

    Raises:
        DeviceUnavailable: see `choose_device`; or CuPy is not installed.
        BundleMismatch: the network cannot be read or has other tensors, or no engine here runs it.
        BackendUnavailable: the GPU has too little free memory.
    """
    device = choose_device(bundle, request)
    # Engines are imported on demand: a machine has only the packages of its own device.
    if device.kind == "cuda":
        from scorer.engines.cuda.select import open_cuda_embedder  # noqa: PLC0415

        embedder, name, why = open_cuda_embedder(bundle, threads)
        return LocalEngine(PrecutEmbedder(embedder, sandbox, on_gpu=True), device, name, why)
    from scorer.engines.openvino import ENGINE_NAME, LocalEmbedder  # noqa: PLC0415

    return LocalEngine(
        LocalEmbedder(bundle, threads, sandbox), device, ENGINE_NAME, "the fastest int8 engine measured on CPUs"
    )
