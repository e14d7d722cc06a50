"""`make bench`, fifth part: the HTTP service beside the same work in one process, and its memory and refusals.

    PYTHONPATH=. python tests/benchmarks/api.py [--seconds 60]

- One client: p50 of a request, alternating with `score_bytes` of the public API on the same photographs.
- 64 clients: images/s, p50 and p99, beside images/s of the pipeline of `score` and `scan` before and after.
- Three times the queue: images/s of answers with 200, and the share of 429; clients wait a second after a 429.
- Memory of the service, its decoders included: at the end of the first quarter and at the end of the 64 clients.

Photographs have 1152 x 896 pixels and no boxes. Clients run on the same machine. Prints, never asserts.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
from photographs import draw_photograph
from rich.console import Console
from rich.table import Table

import scorer
from scorer.settings import ApiSettings

SIDES = (1152, 896)
PHOTOGRAPHS = 48
CLIENTS = 64
PAIRS = 100
AFTER_REFUSAL_S = 1.0
BOUNDARY = "0123456789abcdef"


@contextmanager
def run_service(log: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Yield the service and its host and port."""
    command = [Path(sys.executable).with_name("unlensed"), "api", "--port", "0"]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            while "answers" not in (said := log.read_text("utf-8")):
                if process.poll() is not None:
                    raise RuntimeError(said)
                time.sleep(0.2)
            (line,) = [line for line in said.splitlines() if "the HTTP service answers" in line]
            yield psutil.Process(process.pid), urlsplit(json.loads(line)["url"]).netloc
        finally:
            process.terminate()


def post(connection: http.client.HTTPConnection, photograph: bytes) -> int:
    """Send a photograph and read the answer; return the status."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = part.encode() + photograph + f"\r\n--{BOUNDARY}--\r\n".encode()
    connection.request("POST", "/v1/score", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


class Load:
    """Clients that send one request after another until `seconds` have passed."""

    def __init__(self, address: str, photographs: Sequence[bytes], clients: int, seconds: float) -> None:
        self.statuses: Counter[int] = Counter()
        self.latencies_s: list[float] = []
        self._address, self._photographs, self._until_s = address, photographs, time.monotonic() + seconds
        self.threads = [threading.Thread(target=self._send, args=(number,)) for number in range(clients)]
        for thread in self.threads:
            thread.start()

    def wait(self) -> None:
        """Return when the clients have ended."""
        for thread in self.threads:
            thread.join()

    def _send(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=120)
        for photograph in islice(cycle(self._photographs), number, None):
            if (began_s := time.monotonic()) > self._until_s:
                break
            status = post(connection, photograph)
            self.statuses[status] += 1
            if status == http.HTTPStatus.TOO_MANY_REQUESTS:
                time.sleep(AFTER_REFUSAL_S)
            else:
                self.latencies_s.append(time.monotonic() - began_s)
        connection.close()


def measure_memory(service: psutil.Process) -> float:
    """Return the resident MiB of the service and its decoders."""
    return sum(process.memory_info().rss for process in [service, *service.children(recursive=True)]) / 2**20


def measure_pipeline(paths: Sequence[Path], seconds: float) -> float:
    """Return images/s of one process that scores files for some seconds."""
    with scorer.open_scorer() as local:
        list(local.score_files(paths))
        began_s = time.monotonic()
        done = 0
        for _ in local.score_files(cycle(paths)):
            done += 1
            if time.monotonic() - began_s > seconds:
                break
        return done / (time.monotonic() - began_s)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    rng = np.random.default_rng(3)
    photographs = [draw_photograph(rng, *SIDES)[0] for _ in range(PHOTOGRAPHS)]
    table = Table("figure", "value", title="the HTTP service")
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{number}.jpg" for number in range(PHOTOGRAPHS)]
        for path, photograph in zip(paths, photographs, strict=True):
            path.write_bytes(photograph)
        before = measure_pipeline(paths, seconds / 4)
        with run_service(Path(scratch) / "log") as (service, address):
            with scorer.open_scorer() as local:
                connection, times = http.client.HTTPConnection(address), np.empty((PAIRS, 2))
                for row, photograph in zip(times, cycle(photographs), strict=False):
                    began_s = time.perf_counter()
                    post(connection, photograph)
                    between_s = time.perf_counter()
                    local.score_bytes(photograph)
                    row[:] = between_s - began_s, time.perf_counter() - between_s
            served_ms, local_ms = np.median(times, axis=0) * 1e3
            table.add_row("one client, p50", f"{served_ms:.1f} ms; score_bytes {local_ms:.1f} ms")
            load = Load(address, photographs, CLIENTS, seconds)
            time.sleep(seconds / 4)
            first_mib = measure_memory(service)
            time.sleep(seconds * 3 / 4 - 1)
            last_mib = measure_memory(service)
            load.wait()
            served = load.statuses[http.HTTPStatus.OK] / seconds
            p50, p99 = np.quantile(load.latencies_s, (0.5, 0.99))
            table.add_row(
                f"{CLIENTS} clients", f"{served:.1f} images/s, p50 {p50:.2f} s, p99 {p99:.2f} s, {dict(load.statuses)}"
            )
            table.add_row("memory", f"{first_mib:.0f} MiB after a quarter, {last_mib:.0f} MiB at the end")
            load = Load(address, photographs, 3 * ApiSettings().max_in_flight_images, seconds / 2)
            load.wait()
            table.add_row(
                "overload", f"{load.statuses[http.HTTPStatus.OK] / (seconds / 2):.1f} images/s, {dict(load.statuses)}"
            )
        after = measure_pipeline(paths, seconds / 4)
        share = served / np.mean((before, after))
        table.add_row("the pipeline alone", f"{before:.1f} and {after:.1f} images/s: the service has {share:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
