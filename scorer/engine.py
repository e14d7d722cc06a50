"""Put a bundle to work in this process: detector, embedder, model and policy behind one `score`."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from ingest.detect import FaceDetector, load_detector
from ingest.reasons import Unscorable
from scorer.bundle import Bundle, BundleMismatch, read_bundle, verify_engine
from scorer.decide import Policy, check_policy
from scorer.locate import LocatedImage, locate_faces, refuse
from scorer.messages import ScoreRequest, ScoreResult
from scorer.openvino_embedder import LocalEmbedder
from scorer.paths import read_image
from scorer.score import score_batch
from scorer.settings import Settings, scoring_device


class LocalScorer:
    """Scores files in this process.

    Raises:
        BundleMismatch: the bundle cannot be trusted, or this machine's engine does not give its golden answers.
        PolicyError: the bundle's calibration does not resolve the policy's rates.
    """

    def __init__(self, settings: Settings) -> None:
        self.device = scoring_device(settings.device)
        self.bundle: Bundle = read_bundle(settings.bundle)
        check_policy(settings.policy, len(self.bundle.model.calibration))
        self.embedder = LocalEmbedder(self.bundle, settings.threads)
        verify_engine(self.bundle, self.embedder)
        self._settings = settings
        self._detector = load_bundle_detector(self.bundle, settings.threads)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """Yield one result per request, in order; reading and locating run ahead by one batch."""
        with ThreadPoolExecutor(self._settings.threads) as pool:
            waiting: list[Future[LocatedImage]] = []
            for batch in _batched(requests, self._settings.batch_images):
                ahead = [pool.submit(self._locate, request) for request in batch]
                yield from self._finish(waiting)
                waiting = ahead
            yield from self._finish(waiting)

    def _locate(self, request: ScoreRequest) -> LocatedImage:
        try:
            data = request.image.data
            if data is None:
                data = read_image(str(request.image.uri), self._settings.limits.max_bytes)
        except Unscorable as failure:
            return refuse(request, failure)
        return locate_faces(request, data, self._detector, self._settings.limits)

    def _finish(self, waiting: Sequence[Future[LocatedImage]]) -> list[ScoreResult]:
        images = [future.result() for future in waiting]
        return score_batch(images, self.embedder, self.bundle.model, self._choose_policy) if images else []

    def _choose_policy(self, _: ScoreRequest) -> Policy:
        return self._settings.policy


def load_bundle_detector(bundle: Bundle, threads: int) -> FaceDetector:
    """Load the bundle's face detector.

    Raises:
        BundleMismatch: its file is not the network that the manifest names.
    """
    try:
        return load_detector(bundle.folder, bundle.manifest.detector, threads)
    except ValueError as error:
        raise BundleMismatch(str(error)) from error


def _batched(requests: Iterable[ScoreRequest], size: int) -> Iterator[list[ScoreRequest]]:
    iterator = iter(requests)
    while batch := list(islice(iterator, size)):  # itertools.batched needs Python 3.12
        yield batch
