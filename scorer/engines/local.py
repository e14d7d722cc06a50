"""The engine in this process: on the device that the bundle was built for, and told with the reason."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ingest.detector_pool import DetectorUnusable
from ingest.device import Device, Kind, Request, resolve_built_device
from ingest.sandbox import TIMEOUT_S, Sandbox
from scorer.bundle.bundle import Bundle
from scorer.engines.base import SharedEmbedder
from scorer.errors import BundleMismatch

_BUILT: dict[str, tuple[Kind, str]] = {
    "openvino": ("cpu", "the bundle {folder} is built for the CPU: export one with --target tensorrt"),
    "tensorrt": ("cuda", "the bundle {folder} is built for a GPU: export one with --target openvino to score on a CPU"),
}


@dataclass(frozen=True, slots=True, eq=False)
class LocalEngine:
    """An opened engine.

    Attributes:
        embedder: it; for further threads `share` it.
        device: where it runs, and why there.
        name: what it is, with its version.
        why: why this engine.
    """

    embedder: SharedEmbedder
    device: Device
    name: str
    why: str


def choose_device(bundle: Bundle, request: Request) -> Device:
    """Return the device that scores with `bundle`, with the reason.

    Raises:
        DeviceUnavailable: another was asked for than the bundle is built for, or there is none of that kind.
    """
    kind, built = _BUILT[bundle.manifest.target]
    return resolve_built_device(request, kind, built.format(folder=bundle.folder))


def open_sandbox(
    bundle: Bundle, processes: int, *, finds: bool = True, cuts: bool = True, timeout_s: float = TIMEOUT_S
) -> Sandbox:
    """Return the sandbox that finds the faces of `bundle`, and cuts those that are embedded in this process.

    A GPU decodes what it embeds.

    Raises:
        DeviceUnavailable: see `Sandbox`.
        ModuleNotFoundError: a package is missing that its processes load; they could not say so in one sentence.
    """
    manifest = bundle.manifest
    for module in (*(("openvino", "simplejpeg") if finds else ()), *(("nvidia.dali",) if cuts else ())):
        if find_spec(module) is None:
            raise ModuleNotFoundError(module, name=module.partition(".")[0])
    # Its processes read the networks by path, now and whenever one is started again.
    place = bundle.copy(*(bundle.folder / name for name in manifest.detector.files))
    return Sandbox(
        Path(place.name),
        manifest.detector if finds else None,
        manifest.preprocess if cuts and manifest.target == "openvino" else None,
        processes,
        timeout_s=timeout_s,
        release=place.cleanup,
    )


def start_sandbox(sandbox: Sandbox, count: int | None = None) -> None:
    """Start `count` processes of a sandbox; None is all.

    Raises:
        BundleMismatch: the detector's file is not the network that the manifest names.
        SandboxBroken: a process cannot be started.
    """
    try:
        sandbox.start(count)
    except DetectorUnusable as error:
        raise BundleMismatch(str(error)) from error


def open_local_engine(bundle: Bundle, request: Request, threads: int, sandbox: Sandbox) -> LocalEngine:
    """Open the engine of `bundle` on the device that it is built for; `sandbox` cuts faces for a CPU's.

    Raises:
        DeviceUnavailable: see `choose_device`; or CuPy is not installed.
        BundleMismatch: the network cannot be read or has other tensors, or no engine here runs it.
        BackendUnavailable: the GPU has too little free memory.
    """
    device = choose_device(bundle, request)
    # Engines load only when they are needed: a machine has those of its own device.
    if device.kind == "cuda":
        from scorer.engines.cuda.select import open_cuda_embedder  # noqa: PLC0415

        embedder, name, why = open_cuda_embedder(bundle, threads)
        return LocalEngine(embedder, device, name, why)
    from scorer.engines.openvino import ENGINE_NAME, LocalEmbedder  # noqa: PLC0415

    return LocalEngine(
        LocalEmbedder(bundle, threads, sandbox), device, ENGINE_NAME, "the fastest int8 engine measured on CPUs"
    )
