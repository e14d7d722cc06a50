"""The findings of `unlensed doctor`: each part in use, why it was chosen, and what is missing."""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.text import Text

from ingest.detector_pool import SandboxBroken
from ingest.device import DeviceUnavailable, require_instructions, resolve_device
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle
from scorer.bundle.signature import read_trusted_bundle
from scorer.decide import resolve_policy, supported_rate
from scorer.engines.local import choose_device, open_local_engine, open_sandbox, start_sandbox
from scorer.engines.tensorrt.packages import CONTAINERS, TENSORRT, find_package
from scorer.engines.verify import verify_engine
from scorer.errors import BackendUnavailable, BundleMismatch, PolicyError, SettingsError
from scorer.extras import EXTRAS, find_missing, pip_line
from scorer.meaning import explain_decisions
from scorer.observe.printable import printable
from scorer.settings import Settings, load_settings
from scorer.transport import require_private_transport
from scorer.version import PACKAGE, VERSION

# Not in an extra: it is part of the container that serves.
TENSORRT_USE = (
    "the fastest engine on a GPU: builds and runs a bundle's plan; NVIDIA's containers contain it, those of "
    f"{CONTAINERS} have {TENSORRT}"
)
MAX_NAMED = 5  # of an extra's missing packages


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the installation; scoring cannot start while a `needed` part is not `usable`."""

    part: str
    usable: bool
    found: str
    why: str
    needed: bool = True

    def as_dict(self) -> dict[str, object]:
        """Return the finding as JSON values."""
        return asdict(self)

    def line(self) -> Text:
        """Return the finding as one line for a person."""
        mark = ("ok", "green") if self.usable else ("no", "red") if self.needed else ("--", "dim")
        why = (f" ({printable(self.why)})", "dim")
        return Text.assemble((f"{self.part:<10} ", "bold"), mark, f"  {printable(self.found)}", why)


def examine(bundle: Path | None, device: str | None, **trust: object) -> list[Finding]:
    """Examine every part that scoring needs, also after a part that fails; `trust` are flags of `load_settings`."""
    findings = [_present(PACKAGE, VERSION, "this release")]
    findings += [_present("python", platform.python_version(), f"on {platform.machine()}, {platform.system()}")]
    try:
        settings = load_settings(bundle=bundle, device=device, **trust)
    except SettingsError as error:
        return [*findings, _missing("settings", "unusable", str(error))]
    try:
        checked = read_trusted_bundle(settings)
    except (BundleMismatch, SettingsError) as error:
        findings += [_device(settings, None), _instructions(), *_packages(None)]
        findings.append(_missing("bundle", str(settings.bundle), str(error)))
    else:
        parts = [_device(settings, checked), _instructions(), *_packages(checked)]
        findings += parts
        if all(part.usable for part in parts):
            findings += _bundle(checked, settings)
    tensorrt, obstacle = find_package("tensorrt")
    findings.append(_present("optional", f"tensorrt {tensorrt.__version__}" if tensorrt else obstacle, TENSORRT_USE))
    return findings + [_extra(name, use) for name, use in EXTRAS.items()]


def _extra(name: str, use: str) -> Finding:
    """Return which packages of an extra are missing; no extra is `needed`, because the other findings cover scoring."""
    missing = find_missing(name)
    if not missing:
        return _present("extra", f"{name} is installed", use)
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    found = f"{name} is missing: {', '.join(missing[:MAX_NAMED])}{more}"
    return Finding("extra", usable=False, found=found, why=f"{use}; {pip_line([name])}", needed=False)


def _present(part: str, found: str, why: str) -> Finding:
    return Finding(part, usable=True, found=found, why=why)


def _missing(part: str, found: str, why: str) -> Finding:
    return Finding(part, usable=False, found=found, why=why)


def _packages(bundle: Bundle | None) -> list[Finding]:
    on_gpu = bundle is not None and bundle.manifest.target == "tensorrt"
    use = "finds the faces, on the CPU" if on_gpu else "the fastest int8 engine measured on CPUs"
    return [
        _package("decoder", "nvidia.dali", "nvidia-dali-cuda130", "DALI decodes and crops; it needs no GPU driver"),
        _package("engine", "openvino", "openvino", use),
    ]


def _device(settings: Settings, bundle: Bundle | None) -> Finding:
    if bundle and _only_triton_embeds(bundle, settings):
        cores = f"{settings.threads} of {os.cpu_count()} cores"
        return _present("device", f"cpu, {cores}", "the bundle is for a GPU, and Triton serves it")
    try:
        device = choose_device(bundle, settings.device) if bundle else resolve_device(settings.device)
    except DeviceUnavailable as error:
        return _missing("device", settings.device, str(error))
    return _present("device", f"{device.kind}, {settings.threads} of {os.cpu_count()} cores", device.reason)


def _instructions() -> Finding:
    try:
        require_instructions()
    except DeviceUnavailable as error:
        return _missing("cpu", "instructions older than AVX2", str(error))
    return _present("cpu", "AVX2 and FMA", "all CPUs with these give the same results")


def _package(part: str, module: str, distribution: str, why: str) -> Finding:
    try:
        importlib.import_module(module)
        return _present(part, f"{distribution} {importlib.metadata.version(distribution)}", why)
    except (ImportError, OSError, importlib.metadata.PackageNotFoundError) as error:
        return _missing(part, f"{distribution} is missing", f"{error}; {pip_line(['cpu'])}")


def _bundle(bundle: Bundle, settings: Settings) -> list[Finding]:
    engines: list[Finding] = []
    try:
        with closing(open_sandbox(bundle, 1)) as sandbox:
            start_sandbox(sandbox)
            if not _only_triton_embeds(bundle, settings):
                engines = _engine(bundle, settings, sandbox)
    except (BundleMismatch, BackendUnavailable, DeviceUnavailable, SandboxBroken) as error:
        return [_missing("bundle", str(settings.bundle), str(error))]
    manifest = bundle.manifest
    findings = [
        _present(
            "bundle", f"{manifest.bundle_id} {bundle.model.digest[:12]}", f"from {settings.bundle}, {manifest.licence}"
        ),
        _present("detector", manifest.detector.architecture, f"{manifest.detector.file}"),
        *(_triton(bundle, settings) if settings.triton.url else ()),
        *engines,
    ]
    _, photographs, stratum = manifest.calibration
    try:
        policy, note = resolve_policy(settings.policy, manifest.calibration)
    except PolicyError as error:
        return [*findings, _missing("policy", settings.policy.policy_id, str(error))]
    rates = (
        f"flags {policy.flag_false_alarm_rate:.1%}, reviews {policy.review_false_alarm_rate:.1%} of photographed faces"
    )
    part = f" of the stratum {stratum}" if stratum else ""
    why = note or f"a calibration on {photographs} photographs{part} supports {100 * supported_rate(photographs):g} %"
    found_pass, found_flag = explain_decisions(manifest.evaluation, policy)
    measured = (
        f"evaluated on {manifest.evaluation.measured_on}" if manifest.evaluation else "the bundle states no evaluation"
    )
    return [
        *findings,
        _present("policy", rates, why),
        _present("meaning", found_pass, measured),
        _present("meaning", found_flag, measured),
    ]


def _only_triton_embeds(bundle: Bundle, settings: Settings) -> bool:
    """Return whether `serve` needs no engine here: the bundle is for a GPU and Triton serves it."""
    return bundle.manifest.target == "tensorrt" and settings.triton.url is not None


def _engine(bundle: Bundle, settings: Settings, sandbox: Sandbox) -> list[Finding]:
    engine = open_local_engine(bundle, settings.device, settings.threads, sandbox)
    drift, manifest = verify_engine(bundle, engine.embedder), bundle.manifest
    on_gpu = [_present("gpu engine", engine.name, engine.why)] if engine.device.kind == "cuda" else []
    return [
        *on_gpu,
        _present(
            "extractor",
            f"{manifest.feature_size} features at {manifest.precision}",
            f"golden faces {drift:.2g} nats from their results, {manifest.golden_tolerance_nats:g} allowed",
        ),
    ]


def _triton(bundle: Bundle, settings: Settings) -> Iterator[Finding]:
    url = str(settings.triton.url)
    try:
        from scorer.engines.triton.embedder import TritonEmbedder, open_stream  # noqa: PLC0415 - an extra

        paths = [("host", "the server did not answer about shared memory")]
        require_private_transport(url, encrypted=settings.triton.tls, insecure_dev=settings.insecure_dev)
        stream, reason = open_stream(bundle, settings.device)
        embedder = TritonEmbedder(bundle, settings.triton, stream, lambda *path: paths.append(path))
        with closing(embedder) as triton:
            drift = verify_engine(bundle, triton)
    except (ImportError, SettingsError, DeviceUnavailable, BackendUnavailable, BundleMismatch) as error:
        yield _missing("triton", url, str(error))
    else:
        yield _present("triton", url, f"golden faces {drift:.2g} nats from their results through it")
        features, why = paths[-1]
        yield _present("mixture", f"{'CuPy' if stream else 'NumPy'}, features from {features}", f"{reason}; {why}")
