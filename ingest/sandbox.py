"""Finds, cuts and shows faces in limited processes: an image that crashes a decoder fails alone, and the job continues.

Small images are cut in batches. If a batch fails, each of its images is cut once more alone: this identifies the one
that caused the failure. An image that was alone when its process crashed is retried in a new process, unless it failed
in a batch before. An image that exceeded the time limit alone is not retried.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.clips import (
    MAX_FACES,
    ClipFacts,
    ClipSettings,
    SampledClip,
    check_facts,
    parse_facts,
    parse_sample,
)
from ingest.costs import BATCH_IMAGES, BATCH_PIXELS, estimate_memory, make_memory_refusal
from ingest.decode_batches import FaceGroup, batch_groups
from ingest.detect import Detection, DetectorSpec
from ingest.detector_pool import INVALID_ANSWER, ChildFailed, DetectorPool, SandboxClosed
from ingest.device import require_instructions
from ingest.jobs import Kind, describe_job, describe_setup, reduce_size
from ingest.memory import MemoryBudget, find_decoding_memory
from ingest.probe import EncodedFace, ImageInfo
from ingest.provenance.statements import Statement, StatementKind, StatementSource, Validity, parse_statements
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec, Window

TIMEOUT_S = 30.0  # wall time, for a busy machine; CPU time has a lower limit
TRIES = 2

Pixels = NDArray[np.uint8]
_log = logging.getLogger(__name__)


class Sandbox:
    """Finds, cuts and shows faces in `processes` processes. As many threads decode at the same time; others wait.

    Args:
        folder: the verified bundle.
        detector: how faces are found; None if no faces are to be found.
        crops: how faces are cut; None if no faces are to be cut.
        processes: their number; each starts when it is first needed, or by `start`.
        timeout_s: the most wall time of one image, or of a batch of small ones.
        memory_bytes: the most memory of all decoders together; None is the rest of this machine or container.
        cuts_images: whether the engine gets the faces of all images from here. If not, a process prepares to cut when
            the first clip or image comes that its engine cannot decode.
        trust: the PEM text of the certificates whose C2PA manifests are trusted; None if no statements are to be read.
        release: called when the sandbox is closed.

    Raises:
        DeviceUnavailable: see `require_instructions`.
    """

    def __init__(  # noqa: PLR0913 - the work of the processes, and their limits
        self,
        folder: Path,
        detector: DetectorSpec | None,
        crops: PreprocessSpec | None,
        processes: int,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int | None = None,
        cuts_images: bool = True,
        trust: str | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        if detector or crops:
            require_instructions()
        self._crops, self._processes, self._release = crops, processes, release
        folder = folder.absolute()
        setup = describe_setup(folder, detector, crops, timeout_s, cuts_images=cuts_images, trust=trust)
        self._pool = DetectorPool(setup, processes, timeout_s)
        self._budget = MemoryBudget(find_decoding_memory(processes) if memory_bytes is None else memory_bytes)
        self._callers = ThreadPoolExecutor(processes, "crop")

    def start(self, count: int | None = None) -> None:
        """Start `count` processes now; None starts all.

        Raises:
            SandboxBroken: a process cannot be started.
            SandboxClosed: the sandbox was closed.
        """
        self._pool.start(count or self._processes)

    def close(self) -> None:
        """Kill every process; calls that wait or run raise `SandboxClosed`."""
        self._pool.close()
        self._callers.shutdown()
        if self._release:
            self._release()

    def detect(self, data: bytes, info: ImageInfo, min_face_px: float | None = None) -> list[Detection]:
        """Return the faces of one image; see `FaceDetector.detect`.

        Raises:
            Unscorable: undecodable, truncated, timed_out or out_of_memory.
            SandboxBroken: no process can be started.
            SandboxClosed: the sandbox was closed.
        """
        found: list[Detection]
        found, _ = self._run_job("find", [FaceGroup(data, info)], 0, TRIES, min_face_px=min_face_px)
        return found

    def crop(self, faces: Sequence[EncodedFace]) -> Iterator[tuple[int, Pixels | Unscorable]]:
        """Yield each face's position in `faces` with its crop (size, size, 3) or its refusal, batch by batch.

        Raises:
            SandboxBroken: no process can be started.
            SandboxClosed: the sandbox was closed.
        """
        if self._pool.closed:
            raise SandboxClosed
        batches = batch_groups(faces, BATCH_IMAGES, BATCH_PIXELS)
        pending = [self._callers.submit(self._crop_batch, batch) for batch in batches]
        try:
            for batch in pending:
                yield from batch.result().items()
        finally:
            for batch in pending:
                batch.cancel()

    @property
    def blank_crop(self) -> Pixels:
        """A black crop."""
        return np.zeros(self._crop_shape(), np.uint8)

    def show(self, data: bytes, info: ImageInfo, window: Window, max_side: int) -> Pixels:
        """Return an upright `window` of an image, RGB (H, W, 3), reduced so that no side is longer than `max_side`.

        Raises:
            Unscorable, SandboxBroken, SandboxClosed: see `detect`.
        """
        width, height = reduce_size((window.width, window.height), max_side)
        image = FaceGroup(data, info, {0: window})
        _, pixels = self._run_job("show", [image], 3 * width * height, TRIES, max_side=max_side)
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)

    def read_statements(self, data: bytes, info: ImageInfo) -> tuple[Statement, ...]:
        """Return what an image states about its origin; one `unreadable` statement if its process fails.

        Raises:
            SandboxBroken, SandboxClosed: see `detect`.
        """
        statements: tuple[Statement, ...]
        try:
            statements, _ = self._run_job("state", [FaceGroup(data, info)], 0, TRIES)
        except Unscorable as failure:
            why = f"the metadata could not be read ({failure.reason})"
            return (Statement(StatementKind.METADATA, why, StatementSource.FILE, Validity.UNREADABLE),)
        return statements

    def sample(
        self, data: bytes, sha256: str, media_type: str, settings: ClipSettings, min_face_px: float | None = None
    ) -> tuple[ClipFacts, SampledClip]:
        """Return the facts of a clip, and its sampled frames with their faces, cut.

        Args:
            data: the clip.
            sha256: of `data`.
            media_type: the result of `name_clip` or `name_animation`.
            settings: the sampling, and the limits of a clip.
            min_face_px: see `FaceDetector.detect`.

        Raises:
            Unscorable: undecodable, truncated, unsupported_format, timed_out, out_of_memory, too_many_faces or a limit
                of `check_facts`.
            SandboxBroken, SandboxClosed: see `detect`.
        """
        facts: ClipFacts
        sample: SampledClip
        limits = {"cpu_s": settings.cpu_s, "timeout_s": settings.timeout_s}
        group = FaceGroup(data, ImageInfo(media_type, 0, 0, 1, sha256))
        facts, _ = self._run_job("inspect", [group], 0, TRIES)
        check_facts(facts, len(data), settings)
        group = FaceGroup(data, ImageInfo(media_type, facts.width, facts.height, 1, sha256, scans=facts.frames))
        options = {"facts": asdict(facts), "settings": asdict(settings), "min_face_px": min_face_px}
        most = MAX_FACES * (4 * self._crop_shape()[0] ** 2 + 4096)
        sample, _ = self._run_job("sample", [group], most, TRIES, limits, **options)
        return facts, sample

    def _crop_batch(self, groups: list[FaceGroup]) -> dict[int, Pixels | Unscorable]:
        try:
            return self._crop_together(groups, 1 if len(groups) > 1 else TRIES)
        except Unscorable as failure:
            if len(groups) == 1:
                return dict.fromkeys(groups[0].windows, failure)
        results: dict[int, Pixels | Unscorable] = {}
        for group in groups:
            try:
                results |= self._crop_together([group], 1)
            except Unscorable as failure:
                results |= dict.fromkeys(group.windows, failure)
        return results

    def _crop_together(self, groups: list[FaceGroup], tries: int) -> dict[int, Pixels | Unscorable]:
        positions = [position for group in groups for position in group.windows]
        failures: list[Unscorable | None]
        failures, data = self._run_job("cut", groups, len(positions) * int(np.prod(self._crop_shape())), tries)
        crops = iter(np.frombuffer(data, np.uint8).reshape(-1, *self._crop_shape()))
        return {
            position: next(crops) if failure is None else failure
            for position, failure in zip(positions, failures, strict=True)
        }

    def _run_job(
        self,
        kind: Kind,
        groups: list[FaceGroup],
        max_bytes: int,
        tries: int,
        limits: Mapping[str, float] | None = None,
        **options: Any,  # noqa: ANN401 - JSON
    ) -> tuple[Any, memoryview]:
        """Return what `_parse_answer` returns of a job, and the answer's bytes; `limits` replace its CPU and wall time.

        Raises:
            Unscorable: the whole job failed.
        """
        memory = estimate_memory(kind, groups)
        if memory > self._budget.total_bytes:
            raise make_memory_refusal(memory)
        job, files = describe_job(kind, groups, **options) | {"limits": limits}, [group.data for group in groups]
        timeout_s = limits["timeout_s"] if limits else None
        with self._budget.reserve(memory), self._pool.acquire() as slot:
            for left in reversed(range(tries)):
                try:
                    answer, data = slot.run_job(job, files, max_bytes, timeout_s)
                    parsed = _parse_answer(kind, answer, data, groups, max_bytes)
                except ChildFailed as error:
                    slot.discard()
                    if self._pool.closed:
                        raise SandboxClosed from error
                    images = [group.info.sha256 for group in groups]
                    _log.info("a decoding process failed", extra={"fields": {"images": images, "why": error.detail}})
                    if not left or error.reason is Reason.TIMED_OUT:
                        raise Unscorable(error.reason, error.detail) from error
                else:
                    if isinstance(parsed, Unscorable):
                        raise parsed
                    return parsed, data
        raise AssertionError(tries)

    def _crop_shape(self) -> tuple[int, int, int]:
        if self._crops is None:
            message = "this sandbox was opened without a crop specification"
            raise AssertionError(message)
        return self._crops.size, self._crops.size, 3


def _read_failure(answer: dict[str, Any]) -> Unscorable:
    return Unscorable(Reason(answer["reason"]), str(answer["detail"]))


def _parse_answer(kind: Kind, answer: dict[str, Any], data: memoryview, groups: list[FaceGroup], max_bytes: int) -> Any:  # noqa: ANN401 - each kind of job has its own answer
    """Return the content of an answer, or the `Unscorable` of a whole job.

    A `find` has detections, a `state` statements, an `inspect` the facts of a clip, a `sample` its frames, a `cut` None
    or the failure of each window, and a `show` None.

    Raises:
        ChildFailed: the answer is not valid: a process that decodes untrusted bytes is not trusted.
    """
    faces, expected = sum(len(group.windows) for group in groups), max_bytes
    parsed: Any = None
    try:
        if "reason" in answer:
            return _read_failure(answer)
        if kind == "sample":
            return parse_sample(answer, data)
        if kind == "find":
            parsed = [
                Detection(FaceBox(*map(float, box)), float(confidence), sound is True)
                for *box, confidence, sound in answer["faces"]
            ]
        elif kind == "state":
            parsed = parse_statements(answer["statements"])
        elif kind == "inspect":
            parsed = parse_facts(answer)
        elif kind == "cut":
            parsed = [None if failure is None else _read_failure(failure) for failure in answer["crops"]]
            expected = max_bytes // faces * parsed.count(None)
            faces -= len(parsed)
        if len(data) != expected or (kind == "cut" and faces):
            raise ValueError(len(data))  # noqa: TRY301 - handled as any other invalid answer
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ChildFailed(Reason.UNDECODABLE, INVALID_ANSWER) from error
    return parsed
