"""The engine in a Triton Inference Server; beside `regions` no module imports `tritonclient` and `grpc`.

Each face is one request; many are in flight at once, and the server batches them. Requests are built from the messages
of the protocol: the helpers of the client library would copy every image once more. Images are part of the requests:
through shared memory a server on a CPU scored no more of them (0.2 to 2.4 MB), for 2 to 15 % less CPU time.

A process with a GPU computes the mixture on it, from features in `regions` or, copied once, from answers.
"""

import json
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ingest.device import DeviceUnavailable, Request, resolve_device
from ingest.orientation import find_stored_window, turn_matrix
from ingest.probe import EncodedFace, strip_metadata
from ingest.reasons import Reason, Unscorable
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from scorer.engines.base import FeatureBatch
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.cuda.mixture import DeviceFeatureBatch, DeviceMixture
from scorer.engines.triton.regions import HOST, REGION_BYTES, Region, RegionPool, is_refused
from scorer.engines.triton.repository import ENSEMBLE
from scorer.engines.triton.wire import read_failure
from scorer.errors import BackendUnavailable, BundleMismatch, SettingsError
from scorer.mixture import Array
from scorer.settings import TritonSettings

_TENSOR = service_pb2.ModelInferRequest.InferInputTensor

MAX_IN_FLIGHT_REQUESTS = 64
MAX_IN_FLIGHT_BYTES = 64 * 2**20
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 2**20),
    # Reconnects to a restarted server within a second; gRPC's default backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Detects a lost peer; without keepalive TCP waits for a quarter of an hour.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A name may resolve to several servers: requests alternate between them; gRPC's default uses the first only.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # Resolves the name again soon after a server disappeared; gRPC's default waits half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
]
# The server answered that it failed internally.
_INTERNAL_ERRORS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


class TritonUnavailable(BackendUnavailable):
    """Triton did not answer for some faces of a batch.

    Attributes:
        rows: the faces without an answer, by their index in the batch.
    """

    def __init__(self, message: str, rows: Sequence[int], *, blames_faces: bool) -> None:
        super().__init__(message, blames_faces=blames_faces)
        self.rows = tuple(rows)


def open_stream(bundle: Bundle, request: Request) -> tuple[DeviceStream | None, str]:
    """Return the stream of the GPU that computes the mixture, None for NumPy, and the reason.

    Raises:
        DeviceUnavailable: "cuda" was requested, and there is no GPU or CuPy does not use it.
    """
    if bundle.manifest.target != "tensorrt":
        return None, "the bundle is built for the CPU"
    device = resolve_device(request)
    if device.kind == "cpu":
        return None, device.reason
    try:
        return DeviceStream("cuda"), device.reason
    except RuntimeError as error:  # also of CuPy, whose CUDA may be newer than the driver
        if request == "cuda":
            raise DeviceUnavailable(str(error)) from error
        return None, str(error)


class TritonEmbedder:
    """An `Embedder` over gRPC. Several threads may embed at once; one limit bounds their requests in flight.

    Args:
        bundle: that the server serves.
        settings: of the connection.
        stream: of the GPU that computes the mixture, or in tests of a CPU for the same steps; None is NumPy in double
            precision.
        on_path: see `RegionPool`.

    Raises:
        SettingsError: there is no url, or a certificate cannot be read.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: TritonSettings,
        stream: DeviceStream | None = None,
        on_path: Callable[[str, str], object] = lambda _path, _why: None,
    ) -> None:
        if settings.url is None:
            message = "no url of a Triton server is set (UNLENSED_TRITON__URL)"
            raise SettingsError(message)
        self._url, self._timeout_s = settings.url, settings.timeout_s
        self._feature_size = bundle.manifest.feature_size
        self._write_request: Callable[[EncodedFace], Any] = (
            partial(_write_gpu_request, size=bundle.model.preprocess.size)
            if bundle.manifest.target == "tensorrt"
            else _write_request
        )
        self._channel = _open_channel(settings)
        service = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = service.ModelInfer
        self._limit = InFlightLimit(MAX_IN_FLIGHT_REQUESTS, MAX_IN_FLIGHT_BYTES)
        self._stream = stream or DeviceStream("cpu")
        self._regions, self._mixture = None, None
        if stream:
            self._regions = RegionPool(service, stream, on_path)
            self._mixture = DeviceMixture(bundle.model.mixture, stream.xp)
        else:
            on_path(HOST, "the mixture is computed there")

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """Return one row of features per face; see `Embedder`.

        Raises:
            TritonUnavailable: some faces have no answer; no request of this batch is in flight any more.
            BundleMismatch: the server's features are not this bundle's.
        """
        failures: dict[int, Unscorable] = {}
        with self._stream.activate():
            features = self._gather(faces, failures)
            finite = self._stream.copy_to_host(self._stream.xp.isfinite(features).all(axis=1))
            if rows := np.flatnonzero(~finite).tolist():
                features[rows] = np.nan
        for row in rows:
            failures.setdefault(row, Unscorable(Reason.NOT_FINITE, "the extractor gave a number that is not finite"))
        high_band = np.full(len(faces), np.nan, np.float32)  # the crops are on the server
        if self._mixture is None:
            return FeatureBatch(features, failures, high_band)
        return DeviceFeatureBatch(features, failures, high_band, self._mixture, self._stream)

    def _gather(self, faces: Sequence[EncodedFace], failures: dict[int, Unscorable]) -> Array:
        """Return the features on the device of the stream."""
        xp, size = self._stream.xp, self._feature_size
        answers = np.full((len(faces), size), np.nan, np.float32)
        with self._regions.borrow() if self._regions else nullcontext() as region:
            refused = self._ask(faces, range(len(faces)), answers, failures, region)
            if region is None:
                return xp.asarray(answers)
            count = min(len(faces), REGION_BYTES // (4 * size))
            written = region.values[: count * size].reshape(count, size)
            features = xp.concatenate([written, xp.asarray(answers[count:])])
            self._stream.wait()  # the copy is complete
            region.ended = bool(refused)
        if refused:
            self._ask(faces, refused, answers, failures)
            features[refused] = xp.asarray(answers[refused])
        return features

    def _ask(
        self,
        faces: Sequence[EncodedFace],
        rows: Sequence[int],
        answers: NDArray[np.float32],
        failures: dict[int, Unscorable],
        region: Region | None = None,
    ) -> list[int]:
        """Send the faces of `rows` and wait; return the rows to send again without the region.

        Features that are not in the region are written to `answers`, reasons to `failures`.
        """
        calls: dict[int, Any] = {}
        outage = threading.Event()
        for row in rows:
            if outage.is_set():
                break  # the other requests would fail in the same way
            calls[row] = self._send(row, faces[row], outage, region)
        for row, call in calls.items():
            if call.code() is grpc.StatusCode.OK:  # waits for the call
                if features := self._read_features(call.result()):
                    answers[row] = np.frombuffer(features, np.float32)
            elif failure := _read_failure(call):
                failures[row] = failure
        refused = {row for row in rows if region and (row not in calls or is_refused(calls[row]))}
        self._raise_outage({row: call for row, call in calls.items() if row not in refused}, rows)
        return sorted(refused)

    @property
    def in_flight(self) -> int:
        """The number of requests in flight."""
        return self._limit.requests

    def close(self) -> None:
        """Close the connection; requests in flight fail as unavailable."""
        if self._regions:
            self._regions.close()
        self._channel.close()

    def _send(self, row: int, face: EncodedFace, outage: threading.Event, region: Region | None) -> Any:  # noqa: ANN401 - grpc's calls are untyped
        def finish(call: Any) -> None:  # noqa: ANN401 - grpc's calls are untyped
            self._limit.release(len(face.data))
            if _is_outage(call):
                outage.set()

        self._limit.acquire(len(face.data))
        try:
            request = self._write_request(face)
            if region and (row + 1) * self._feature_size * 4 <= REGION_BYTES:
                request.outputs.append(region.place("features", row, self._feature_size))
            call = self._infer.future(request, timeout=self._timeout_s)
        except ValueError as error:  # the channel is closed
            self._limit.release(len(face.data))
            message = f"the connection to Triton at {self._url} was closed"
            raise TritonUnavailable(message, (), blames_faces=False) from error
        call.add_done_callback(finish)
        return call

    def _read_features(self, response: Any) -> bytes:  # noqa: ANN401 - generated messages are untyped
        """Return the features; none if the server wrote them to a region."""
        output = response.outputs[0]
        found = output.datatype, *output.shape
        if found != ("FP32", 1, self._feature_size):
            message = (
                f"Triton at {self._url} answers with features of {found}, the bundle has {self._feature_size} in FP32: "
                "it serves another bundle"
            )
            raise BundleMismatch(message)
        return bytes(response.raw_output_contents[0])

    def _raise_outage(self, calls: Mapping[int, Any], rows: Sequence[int]) -> None:
        outages = {row: call for row, call in calls.items() if _is_outage(call)}
        if not outages:
            return
        row, call = next(iter(outages.items()))
        lost = (*outages, *(row for row in rows if row not in calls))
        message = (
            f"Triton at {self._url} did not score {len(lost)} of {len(rows)} faces; "
            f"its error for face {row} is {call.code().name}: {call.details()}"
        )
        raise TritonUnavailable(message, lost, blames_faces=any(c.code() in _INTERNAL_ERRORS for c in outages.values()))


class InFlightLimit:
    """Bounds the requests in flight; an image over the limit is sent when no other is in flight."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self.requests = self._bytes = 0
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        """Wait until a request of `size` bytes may be sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(size))
            self.requests, self._bytes = self.requests + 1, self._bytes + size

    def release(self, size: int) -> None:
        """Count a request of `size` bytes as answered."""
        with self._changed:
            self.requests, self._bytes = self.requests - 1, self._bytes - size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self.requests or (self.requests < self._max_requests and self._bytes + size <= self._max_bytes)


def _write_request(face: EncodedFace) -> Any:  # noqa: ANN401 - generated messages are untyped
    """Build a request for a CPU server, which probes the file and reads its orientation."""
    return service_pb2.ModelInferRequest(
        model_name=ENSEMBLE, inputs=_describe_inputs(face.data), raw_input_contents=[face.data, _pack(face.window)]
    )


def _write_gpu_request(face: EncodedFace, size: int) -> Any:  # noqa: ANN401 - generated messages are untyped
    """Build a request for a GPU server, whose DALI graph gets no metadata: the request states the rotation."""
    data = strip_metadata(face.data, face.info.media_type)
    turn = turn_matrix(face.info.orientation, size)
    return service_pb2.ModelInferRequest(
        model_name=ENSEMBLE,
        inputs=[*_describe_inputs(data), _TENSOR(name="turn", datatype="FP32", shape=[1, *turn.shape])],
        raw_input_contents=[data, _pack(find_stored_window(face.window, face.info)), turn.tobytes()],
    )


def _describe_inputs(data: bytes) -> list[Any]:
    return [
        _TENSOR(name="image", datatype="UINT8", shape=[1, len(data)]),
        _TENSOR(name="window", datatype="INT32", shape=[1, 4]),
    ]


def _pack(window: Window) -> bytes:
    return struct.pack("<4i", window.left, window.top, window.width, window.height)


def _read_failure(call: Any) -> Unscorable | None:  # noqa: ANN401 - grpc's calls are untyped
    return read_failure(call.details()) if call.code() is grpc.StatusCode.INVALID_ARGUMENT else None


def _is_outage(call: Any) -> bool:  # noqa: ANN401 - grpc's calls are untyped
    return call.code() is not grpc.StatusCode.OK and _read_failure(call) is None


def _open_channel(settings: TritonSettings) -> Any:  # noqa: ANN401 - grpc's channels are untyped
    if not settings.tls:
        return grpc.insecure_channel(settings.url, options=_CHANNEL)
    if (settings.certificate_file is None) != (settings.key_file is None):
        message = "triton.certificate_file and triton.key_file belong together: set both or neither"
        raise SettingsError(message)
    try:
        ca, key, certificate = (
            file.read_bytes() if file else None
            for file in (settings.ca_file, settings.key_file, settings.certificate_file)
        )
    except OSError as error:
        message = f"cannot read {error.filename}, which a triton setting names: {error.strerror}"
        raise SettingsError(message) from error
    return grpc.secure_channel(settings.url, grpc.ssl_channel_credentials(ca, key, certificate), options=_CHANNEL)
