"""Write a bundle with another mixture and calibration: its other files are copies, its signature is not."""

import io
import re
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from scorer.archive.calibration.refit import NewCalibration
from scorer.bundle.arrays import write_arrays
from scorer.bundle.bundle import Bundle, read_bundle, write_manifest
from scorer.bundle.calibration import write_calibration
from scorer.bundle.manifest import CALIBRATION, GOLDEN, MIXTURE
from scorer.errors import UsageError
from scorer.files import require_local
from scorer.fitting.calibrate import choose_golden_tolerance
from scorer.mixture import log_likelihood, stack_mixture
from scorer.version import VERSION

CARD = "MODEL_CARD.md"
_END = "<!-- end of the calibration's section -->"
_MARK = "+run-"  # of a bundle that was calibrated on a run; another calibration replaces it


def write_calibrated_bundle(bundle: Bundle, calibrated: NewCalibration, folder: Path) -> Bundle:
    """Write the bundle into `folder`, which does not exist yet or is empty, whole or not at all, and return it.

    Raises:
        UsageError: `folder` contains something, or is a URI.
        BundleMismatch: a file of the bundle has changed since it was read.
        OSError: for example, the disk is full.
    """
    require_local(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        message = f"{folder} is not an empty folder: name another --out"
        raise UsageError(message)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as scratch:
        partial = Path(scratch) / "bundle"
        _write_files(bundle, calibrated, partial)
        read_bundle(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    return read_bundle(folder)


def _write_files(bundle: Bundle, calibrated: NewCalibration, folder: Path) -> None:
    manifest, calibration = bundle.manifest, calibrated.calibration
    for name in manifest.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bundle.read(bundle.folder / name))
    if mixture := calibrated.mixture:
        write_arrays(folder / MIXTURE, asdict(mixture))
        with np.load(io.BytesIO(bundle.read(bundle.folder / GOLDEN)), allow_pickle=False) as arrays:
            golden = dict(arrays)
        golden["log_likelihoods"] = log_likelihood(golden["features"], stack_mixture(mixture)).astype(np.float64)
        write_arrays(folder / GOLDEN, golden)
    write_calibration(folder / CALIBRATION, calibration)
    today = datetime.now(UTC).date().isoformat()
    bundle_id = f"{manifest.bundle_id.partition(_MARK)[0]}{_MARK}{calibrated.manifest_fields['calibration_id']}"
    card = folder / CARD
    before = card.read_text(encoding="utf-8") if card.exists() else ""
    section = describe_calibration(bundle, calibrated, bundle_id, today)
    card.write_text(_add_section(before, f"# Model card: {bundle_id}\n\n{section}"), encoding="utf-8")
    fields: dict[str, object] = manifest.model_dump(exclude={"schema_version", "files", "evaluation"}) | {
        **calibrated.manifest_fields,
        "bundle_id": bundle_id,
        "golden_tolerance_nats": choose_golden_tolerance(calibration.pooled),
        "provenance": {
            "created_at": today,
            "recipe": manifest.provenance.recipe,
            "data": {"before": f"{manifest.bundle_id}, digest {bundle.model.digest}", **calibrated.facts},
            "tools": {**manifest.provenance.tools, "unlensed calibrate": VERSION},
        },
    }
    licences = {name: record.licence for name, record in manifest.files.items()}
    write_manifest(folder, fields, {CARD: manifest.licence, **licences})


def describe_calibration(bundle: Bundle, calibrated: NewCalibration, bundle_id: str, today: str) -> str:
    """Return the section of the model card."""
    rows = []
    for part, measured in calibrated.thresholds.items():
        start = f"| {part} | {measured['faces']} of {measured['photographs']} "
        for rate, row in measured["thresholds"].items():
            interval = f"{100 * row['rate_low']:.2g} to {100 * row['rate_high']:.2g} %"
            rows.append(f"{start}| {100 * float(rate):g} % | {row['nats']:.1f} nats | {interval} |")
        rows += [f"{start}| {100 * float(rate):g} % | - | {reason} |" for rate, reason in measured["refused"].items()]
    origin = (
        "`unlensed calibrate` fitted this bundle to photographs of a scan. Before it was "
        f"{bundle.manifest.bundle_id}, digest {bundle.model.digest}. No face was left out for its decision. Nothing "
        "was evaluated on other photographs or on generated pictures: **the other figures of this card are of the "
        "bundle before.**"
    )
    return "\n".join(
        [
            f"## Calibrated on a scan: {bundle_id}, {today}",
            "",
            origin,
            "",
            *(f"- {name}: {value}." for name, value in calibrated.facts.items()),
            *(f"- Limit: {note}." for note in calibrated.notes),
            "",
            "| stratum | faces of photographs | promised rate | threshold | 95 % interval of the true rate |",
            "|---|---|---|---|---|",
            *rows,
            "",
            _END,
            "",
            "",
        ]
    )


def _add_section(card: str, section: str) -> str:
    """Return a card with a new title and section in place of its title and the section of an earlier calibration."""
    card = re.sub(rf"^## Calibrated on a scan: .*?{_END}\n+", "", card, flags=re.MULTILINE | re.DOTALL)
    title = re.search(r"^# .*\n+", card, re.MULTILINE)
    start, end = title.span() if title else (0, 0)
    return card[:start] + section + card[end:]
