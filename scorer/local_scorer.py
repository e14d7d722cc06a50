"""A bundle in this process: detector, embedder, model and policy behind one method `score`."""

import ctypes
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_limits

from ingest.device import resolve_device
from ingest.reasons import Unscorable
from scorer.bundle.signature import read_trusted_bundle
from scorer.decide import resolve_policy
from scorer.engines.base import Embedder
from scorer.engines.local import open_local_engine, open_sandbox, start_sandbox
from scorer.engines.verify import verify_engine
from scorer.locate import LocatedImage, locate_faces, make_failed_image
from scorer.messages import ScoreRequest, ScoreResult
from scorer.payloads.local_file import read_image
from scorer.pipeline import ScoringPipeline, TimeLimit
from scorer.score import score_batch
from scorer.settings import Settings

if TYPE_CHECKING:
    from scorer.bundle.bundle import Bundle

T = TypeVar("T")
_M_ARENA_MAX = -8  # of <malloc.h>


class LocalScorer:
    """Scores images, two batches at a time: the sandbox decodes one while the engine in this process embeds the other.

    Attributes:
        sandbox: the processes that decode images.
        policy: the policy that decides every image.
        policy_note: a sentence if `policy` differs from the one of the settings, see `resolve_policy`.

    Raises:
        BundleMismatch: the bundle cannot be trusted, or this machine's engine does not give its golden answers.
        SandboxBroken: no decoding process can be started.
        DeviceUnavailable: the requested device does not exist, or the bundle is not built for it.
        BackendUnavailable: the GPU has too little free memory.
        PolicyError: the bundle's calibration does not support the policy's rates.
    """

    def __init__(self, settings: Settings) -> None:
        resolve_device(settings.device)  # a missing device is reported before the bundle is read
        self.bundle: Bundle = read_trusted_bundle(settings)
        self.policy, self.policy_note = resolve_policy(settings.policy, self.bundle.manifest.calibration)
        # The mixture takes 1 % of the time; a second BLAS thread would only spin and use 10 % of all CPU time.
        threadpool_limits(limits=1, user_api="blas")
        limit_heaps(settings.threads)
        self.sandbox = open_sandbox(self.bundle, settings.threads)
        with ThreadPoolExecutor(1) as starter:  # a process starts while the engine loads
            started = starter.submit(start_sandbox, self.sandbox, 1)
            self.engine = open_local_engine(self.bundle, settings.device, settings.threads, self.sandbox)
        started.result()
        self.embedder = self.engine.embedder
        verify_engine(self.bundle, self.embedder)
        self.settings = settings
        self._embedders = (self.embedder, self.embedder.share())

    def score(self, requests: Iterable[ScoreRequest]) -> Generator[ScoreResult]:
        """Yield one result per request, in order; later images are located meanwhile. Close it to stop early."""
        for done in self.open_pipeline(self._locate_request).run(requests):
            yield done.result

    def open_pipeline(
        self, locate: Callable[[T], LocatedImage], limit: TimeLimit[T] | None = None, batch_images: int | None = None
    ) -> ScoringPipeline[T]:
        """Return a pipeline that scores the images that `locate` returns for its tasks; only one may run at a time.

        Args:
            locate: see `ScoringPipeline`.
            limit: see `ScoringPipeline`.
            batch_images: replaces the value of the settings.
        """
        scorers = [partial(self._score_batch, embedder=each) for each in self._embedders]
        size = batch_images or self.settings.batch_images
        return ScoringPipeline(locate, scorers, threads=self.settings.threads, batch_images=size, limit=limit)

    def read_and_locate(self, request: ScoreRequest, read: Callable[[], bytes]) -> LocatedImage:
        """Locate the faces of the image that `read` returns; an `Unscorable` that it raises becomes the failure."""
        try:
            data = read()
        except Unscorable as failure:
            return make_failed_image(request, failure)
        return self.locate(request, data)

    def locate(self, request: ScoreRequest, data: bytes) -> LocatedImage:
        """Probe the bytes of an image or clip, and find its faces or take those of the request; thread-safe."""
        settings = self.settings
        return locate_faces(request, data, self.sandbox, settings.limits, settings.policy.min_face_px, settings.video)

    def score_located(self, image: LocatedImage) -> ScoreResult:
        """Return the result of one located image; only one thread may call this at a time."""
        (result,) = self._score_batch([image], self.embedder)
        return result

    def close(self) -> None:
        """Stop the decoding processes."""
        self.sandbox.close()

    def _locate_request(self, request: ScoreRequest) -> LocatedImage:
        if request.image.data is not None:
            return self.locate(request, request.image.data)
        uri, max_bytes = str(request.image.uri), self.settings.limits.max_bytes
        return self.read_and_locate(request, lambda: read_image(uri, max_bytes))

    def _score_batch(self, images: Sequence[LocatedImage], embedder: Embedder) -> list[ScoreResult]:
        return score_batch([(image, self.policy) for image in images], embedder, self.bundle.model)


def limit_heaps(count: int) -> None:
    """Limit glibc to one heap per core (its default is eight); other C libraries are left alone.

    Decoders and engines have a dozen threads, and freed memory stays in the heap that it came from: the peak memory of
    a scan of 20,000 images on two cores was 534 MiB with the default and 469 MiB with two heaps.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, max(2, count))
