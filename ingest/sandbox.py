"""Faces found and cut in limited processes: an image that harms a decoder costs itself, not the job.

Small images are cut several at a time. Where such a batch fails, each of its images is tried once more alone, so that
the guilty one is known. An image that is alone when its process dies is tried again in a fresh one, unless it failed
in a batch before. One that runs out of time alone is not tried again.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.costs import BATCH_IMAGES, BATCH_PIXELS, estimate_memory, lack_memory
from ingest.detect import Detection, DetectorSpec
from ingest.detector_pool import ChildFailed, DetectorPool, SandboxClosed
from ingest.device import require_instructions
from ingest.face_groups import FaceGroup, batch_groups
from ingest.jobs import describe_setup
from ingest.memory import MemoryBudget, find_decoding_memory
from ingest.probe import EncodedFace, ImageInfo
from ingest.reasons import Reason, Unscorable
from ingest.spec import FaceBox, PreprocessSpec

TIMEOUT_S = 30.0  # CPU time is bounded more closely; a machine may be busy with other things
TRIES = 2

Pixels = NDArray[np.uint8]
_log = logging.getLogger(__name__)


class Sandbox:
    """A `FaceDetector` and a cropper of `processes` processes; as many threads decode at once, further ones wait.

    Args:
        folder: the bundle, verified.
        detector: how faces are found; None where none are looked for.
        crops: how they are cut; None where none are.
        processes: how many; each starts when it is first needed, or by `start`.
        timeout_s: how long one image, or a batch of small ones, may take.
        memory_bytes: what all decoders together may take; None is what this machine or container has left.
        release: called when the sandbox is closed.

    Raises:
        DeviceUnavailable: see `require_instructions`; no process would start.
    """

    def __init__(  # noqa: PLR0913 - what the processes do, and their limits
        self,
        folder: Path,
        detector: DetectorSpec | None,
        crops: PreprocessSpec | None,
        processes: int,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        require_instructions()
        self._crops, self._processes, self._release = crops, processes, release
        setup = describe_setup(folder.absolute(), detector, crops, timeout_s)
        self._pool = DetectorPool(setup, processes, timeout_s)
        self._budget = MemoryBudget(find_decoding_memory(processes) if memory_bytes is None else memory_bytes)
        self._callers = ThreadPoolExecutor(processes, "crop")

    def start(self, count: int | None = None) -> None:
        """Start `count` processes now; None is all.

        Raises:
            SandboxBroken: one cannot be started.
            SandboxClosed: the sandbox was closed.
        """
        self._pool.start(count or self._processes)

    def close(self) -> None:
        """End every process; callers that wait or are being served get `SandboxClosed`."""
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
        answer, _ = self._ask([FaceGroup(data, info, min_face_px=min_face_px)], TRIES)
        return [Detection(FaceBox(*map(float, face[:4])), float(face[4])) for face in answer["faces"]]

    def crop(self, faces: Sequence[EncodedFace]) -> Iterator[tuple[int, Pixels | Unscorable]]:
        """Yield each face's place in `faces` with its crop (size, size, 3) or why there is none, as they are ready.

        Raises:
            SandboxBroken: no process can be started.
            SandboxClosed: the sandbox was closed.
        """
        if self._pool.closed:
            raise SandboxClosed
        batches = batch_groups(faces, BATCH_IMAGES, BATCH_PIXELS)
        waiting = [self._callers.submit(self._crop_batch, batch) for batch in batches]
        try:
            for batch in waiting:
                yield from batch.result().items()
        finally:
            for batch in waiting:
                batch.cancel()

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
        answer, data = self._ask(groups, tries)
        places = [place for group in groups for place in group.windows]
        crops = iter(np.frombuffer(data, np.uint8).reshape(-1, *self._crop_shape()))
        return {
            place: next(crops) if failure is None else _read_failure(failure)
            for place, failure in zip(places, answer["crops"], strict=True)
        }

    def _ask(self, groups: list[FaceGroup], tries: int) -> tuple[dict[str, Any], memoryview]:
        """Return the answer to a job that is one.

        Raises:
            Unscorable: there is none, for a reason that concerns the job as a whole.
        """
        memory = estimate_memory(groups)
        if memory > self._budget.total_bytes:
            raise lack_memory(memory)
        crop_bytes = int(np.prod(self._crop_shape())) if groups[0].windows else 0
        with self._budget.hold(memory), self._pool.lend() as place:
            for left in reversed(range(tries)):
                try:
                    answer, data = place.ask(groups, crop_bytes * sum(len(group.windows) for group in groups))
                    _check_answer(answer, data, groups, crop_bytes)
                except ChildFailed as error:
                    place.discard()
                    if self._pool.closed:
                        raise SandboxClosed from error
                    images = [group.info.sha256 for group in groups]
                    _log.info("a decoding process failed", extra={"fields": {"images": images, "why": error.detail}})
                    if not left or error.reason is Reason.TIMED_OUT:
                        raise Unscorable(error.reason, error.detail) from error
                else:
                    if "reason" in answer:
                        raise _read_failure(answer)
                    return answer, data
        raise AssertionError(tries)

    def _crop_shape(self) -> tuple[int, int, int]:
        if self._crops is None:
            message = "this sandbox was not told how to cut"
            raise AssertionError(message)
        return self._crops.size, self._crops.size, 3


def _read_failure(answer: dict[str, Any]) -> Unscorable:
    return Unscorable(Reason(answer["reason"]), str(answer["detail"]))


def _check_answer(answer: dict[str, Any], data: memoryview, groups: list[FaceGroup], crop_bytes: int) -> None:
    """Raise `ChildFailed` for an answer that is none: who decodes strangers' bytes is not to be trusted."""
    try:
        if "reason" in answer:
            _read_failure(answer)
        elif not crop_bytes:
            [[float(number) for number in face[:5]][4] for face in answer["faces"]]
        else:
            whole = [failure is None or bool(_read_failure(failure)) for failure in answer["crops"]]
            crops = sum(failure is None for failure in answer["crops"])
            if len(whole) != sum(len(group.windows) for group in groups) or len(data) != crops * crop_bytes:
                raise ValueError(len(data))  # noqa: TRY301 - as bad as any other
    except (LookupError, TypeError, ValueError) as error:
        raise ChildFailed(Reason.UNDECODABLE, "the decoder's process gave no answer that makes sense") from error
