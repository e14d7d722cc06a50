"""A stream of photographs through the real service: Kafka, Triton and one `unlensed serve`, all on this machine.

`make stream-demo` runs it; `PHOTOS=dir` sends your own pictures. It prints each answer, then sends all
requests again at once to measure the rate, and stops the servers that it started.
"""

import argparse
import base64
import json
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import skimage
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from deploy.local.kafka import KafkaServer, KafkaUnavailable
from deploy.local.triton import TritonFailed, TritonServer
from deploy.local.worker import Worker, WorkerFailed
from scorer.bundle.bundle import read_bundle
from scorer.commands.inputs import expand_paths
from scorer.decide import Policy, resolve_policy
from scorer.errors import UsageError
from scorer.meaning import explain_decisions
from scorer.observe.printable import printable
from scorer.stream.metrics import STAGES

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "model_repository"
REQUESTS, RESULTS, DEAD_LETTERS = "unlensed.requests", "unlensed.results", "unlensed.dead-letters"
PARTITIONS = 4
FACE = (180, 70, 95, 110)  # the astronaut's, in the portrait of 512 x 512
SMALL = (200, 90, 40, 45)
OUTSIDE = (600, 70, 95, 110)
PACE_S = 0.2
MAX_SHOWN = 200
BURST = 240
SILENCE_S = 60  # without any answer the demo fails
STYLES = {"pass": "blue", "review": "yellow", "flag": "bold red"}
# Widths of the columns; a negative one is aligned left.
COLUMNS = (("request", -18), ("after", 8), ("status", -11), ("decision", -8), ("p-value", 7), ("face", 7))


@dataclass(slots=True)
class Demo:
    """Sends requests and collects answers.

    Attributes:
        sent_s: when each request was produced, by key.
        after_ms: how long each answer took, by key.
        dead_letters: number of answers that are dead letters.
    """

    bootstrap: str
    worker: Worker
    sent_s: dict[bytes, float] = field(default_factory=dict)
    after_ms: dict[bytes, float] = field(default_factory=dict)
    dead_letters: int = 0
    _last_answer_s: float = field(default_factory=time.monotonic)

    def send(self, producer: KafkaProducer, name: str, value: bytes) -> None:
        """Produce one request; the answer has the same key, whatever the value contains."""
        self.sent_s[name.encode()] = time.monotonic()
        producer.send(REQUESTS, key=name.encode(), value=value)

    def answers(self, consumer: KafkaConsumer, timeout_s: float) -> Iterator[Any]:
        """Yield the answers that arrive within `timeout_s`.

        Raises:
            WorkerFailed: it has exited, or has answered nothing for a minute.
        """
        if not self.worker.pid or time.monotonic() - self._last_answer_s > SILENCE_S:
            how = "answered nothing for a minute" if self.worker.pid else f"exited with code {self.worker.exit_code}"
            message = f"unlensed serve {how}; {self.worker.log} shows why"
            raise WorkerFailed(message)
        for records in consumer.poll(timeout_ms=int(1000 * timeout_s)).values():
            for record in records:
                self._last_answer_s = time.monotonic()
                self.after_ms[record.key] = 1000 * (time.monotonic() - self.sent_s[record.key])
                self.dead_letters += record.topic == DEAD_LETTERS
                yield record

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self.sent_s) - len(self.after_ms)


def make_photographs(folder: Path) -> None:
    """Write variants of the public-domain portrait that scikit-image ships."""
    folder.mkdir(parents=True)
    portrait = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    portrait.save(folder / "astronaut.png")
    for quality in (95, 75, 40, 10):
        portrait.save(folder / f"quality-{quality}.jpg", quality=quality)
    portrait.save(folder / "astronaut.webp")
    for width in (1024, 384, 256):
        portrait.resize((width, width), Image.Resampling.LANCZOS).save(folder / f"resized-{width}.jpg", quality=90)
    portrait.crop((120, 20, 340, 240)).save(folder / "cropped.jpg", quality=90)
    ImageOps.mirror(portrait).save(folder / "mirrored.jpg", quality=90)
    portrait.convert("L").save(folder / "grey.jpg", quality=90)
    portrait.crop((0, 256, 200, 512)).save(folder / "no-face.jpg", quality=90)
    portrait.resize((12, 12)).save(folder / "tiny.png")


def make_requests(photographs: Path, *, ours: bool) -> dict[str, bytes]:
    """Return requests by name. The demo's own pictures are sent as bytes and by URI, with boxes and without.

    Raises:
        UsageError: the folder contains no image.
    """
    files = [found.path for found in expand_paths([str(photographs)], sys.stdin.buffer).files[:MAX_SHOWN]]
    if not ours:
        return {str(file.relative_to(photographs)): _request(file) for file in files}
    requests = {file.name: _request(file, inline=file.suffix == ".jpg") for file in files}
    portrait = photographs / "astronaut.png"
    requests["with its box"] = _request(portrait, box=FACE)
    requests["a small box"] = _request(portrait, box=SMALL)
    requests["a box outside"] = _request(portrait, box=OUTSIDE)
    requests["not JSON"] = b"\xff\xd8 a picture, but no request"
    requests["no picture"] = json.dumps({"request_id": "1", "content_id": "1", "image": {}}).encode()
    requests["not a picture"] = json.dumps(
        {"request_id": "2", "content_id": "2", "image": {"bytes": base64.b64encode(b"hello").decode()}}
    ).encode()
    return requests


def _request(file: Path, *, inline: bool = False, box: tuple[int, ...] | None = None) -> bytes:
    data = {"bytes": base64.b64encode(file.read_bytes()).decode()} if inline else {"uri": file.resolve().as_uri()}
    faces = {"faces": [{"face_id": "given", "box": box}]} if box else {}
    return json.dumps({"request_id": str(file), "content_id": str(file), "image": data, **faces}).encode()


class Rows:
    """Prints one row for each answer, under one heading."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._print(Text(name, "bold underline") for name, _ in COLUMNS)

    def add(self, name: str, record: Any, after_ms: float) -> None:  # noqa: ANN401 - the client has no types
        """Print an answer: a result, or a dead letter with its reason."""
        first = [Text(printable(name)), Text(f"{after_ms:.0f} ms", "dim")]
        if record.topic == DEAD_LETTERS:
            why = dict(record.headers)
            code, message = (why[f"unlensed-error-{part}"].decode() for part in ("code", "message"))
            self._print([*first, Text("dead letter", "magenta")], f"{code}: {message}")
            return
        result = json.loads(record.value)
        if result["decision"] is None:
            self._print([*first, Text(result["status"], "dim")], result["detail"] or "")
            return
        face = min(result["faces"], key=lambda face: face["p_value"] or 0)
        more = [f"{result['face_count']} faces"] if result["face_count"] > 1 else []
        cells = [
            Text(result["status"]),
            Text(result["decision"], STYLES[result["decision"]]),
            Text("" if face["p_value"] is None else f"{face['p_value']:.3f}"),
            Text(f"{min(face['box'][2:]):.0f} px"),
        ]
        self._print([*first, *cells], ", ".join(more + face["reason_codes"]))

    def _print(self, cells: Iterable[Text], note: str = "") -> None:
        row = Text(no_wrap=True, overflow="ellipsis")
        for cell, (_, width) in zip(cells, COLUMNS, strict=False):
            cell.align("left" if width < 0 else "right", abs(width))
            row.append_text(cell).append("  ")
        self._console.print(row.append(printable(note), "dim"), overflow="ellipsis", no_wrap=True)


def show_one_by_one(demo: Demo, requests: Mapping[str, bytes], rows: Rows, results: Path) -> None:
    """Send the requests at a constant rate and print every answer."""
    with _clients(demo.bootstrap) as (producer, consumer), results.open("wb") as lines:
        left = iter(requests.items())
        pending = True
        while pending or demo.waiting:
            if request := next(left, None):
                demo.send(producer, *request)
            pending = request is not None
            until_s = time.monotonic() + PACE_S
            while (left_s := until_s - time.monotonic()) > 0:
                for record in demo.answers(consumer, left_s):
                    rows.add(record.key.decode(), record, demo.after_ms[record.key])
                    lines.write(record.value + b"\n" if record.topic == RESULTS else b"")
                if not pending and not demo.waiting:
                    break


def send_at_once(demo: Demo, requests: Mapping[str, bytes], console: Console) -> float:
    """Send many requests at once; return the seconds until the last one is answered."""
    with _clients(demo.bootstrap) as (producer, consumer), _bar(console) as bar:
        task = bar.add_task(f"and {BURST} at once", total=BURST)
        started_s = time.monotonic()
        for number, (name, value) in enumerate(islice(cycle(requests.items()), BURST)):
            demo.send(producer, f"{name} {number}", value)
        while demo.waiting:
            for _ in demo.answers(consumer, 0.1):
                bar.advance(task)
        return time.monotonic() - started_s


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=console, transient=True)


@contextmanager
def _clients(bootstrap: str) -> Iterator[tuple[KafkaProducer, KafkaConsumer]]:
    """Open a producer, and a consumer of the answers from now on."""
    with ExitStack() as stack:
        producer = stack.enter_context(closing(KafkaProducer(bootstrap_servers=bootstrap, linger_ms=0)))
        consumer = stack.enter_context(closing(KafkaConsumer(bootstrap_servers=bootstrap, fetch_max_wait_ms=20)))
        topics = (RESULTS, DEAD_LETTERS)
        partitions = [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
        consumer.assign(partitions)
        consumer.seek_to_end(*partitions)
        for partition in partitions:
            consumer.position(partition)
        yield producer, consumer


def summarise(console: Console, demo: Demo, burst_s: float, folder: Path) -> None:
    """Print the figures of the run."""
    median_ms = statistics.median(list(demo.after_ms.values())[:-BURST])
    stages = []
    for stage in STAGES:
        total_s, count = (
            demo.worker.read_metric(f'unlensed_stage_seconds_{each}{{stage="{stage}"}}') for each in ("sum", "count")
        )
        stages.append(f"{stage} {1000 * total_s / max(count, 1):.1f}")
    lines = {
        "answers": f"{len(demo.after_ms)} to {len(demo.sent_s)} requests, {demo.dead_letters} of them dead letters",
        "one by one": f"{median_ms:.0f} ms from produce to answer (median)",
        "at once": f"{BURST} in {burst_s:.1f} s, {BURST / burst_s:.0f} a second",
        "stages": f"{', '.join(stages)} ms on average, as /metrics counts them",
        "look at": f"{folder}: results.jsonl, worker.log, kafka/broker.log, triton/triton.log",
    }
    for name, what in lines.items():
        console.print(f"[bold]{name:<12}[/]{what}", soft_wrap=True)
    manifest = read_bundle(BUNDLE).manifest
    policy, note = resolve_policy(Policy(), manifest.calibration)
    for sentence in filter(None, (note, *explain_decisions(manifest.evaluation, policy))):
        console.print(sentence, style="dim", soft_wrap=True, markup=False, highlight=False)


def start_all(console: Console, stack: ExitStack, folder: Path, photographs: Path) -> tuple[str, Worker]:
    """Start broker, engine and worker; return the broker's address and the worker."""
    with _starting(console, "Kafka") as say:
        kafka = stack.enter_context(KafkaServer(folder / "kafka"))
        for topic in (REQUESTS, RESULTS, DEAD_LETTERS):
            kafka.create_topic(topic, PARTITIONS)
        say(f"{kafka.bootstrap}, Apache Kafka with three topics")
    with _starting(console, "Triton") as say:
        (folder / "triton").mkdir()
        triton = stack.enter_context(TritonServer(BUNDLE, folder / "triton"))
        say(f"{triton.url}, Triton Inference Server with the starter bundle")
    settings = {
        "bundle": BUNDLE,
        "kafka__bootstrap": kafka.bootstrap,
        "triton__url": triton.url,
        "payloads__schemes": json.dumps(["file"]),
        "payloads__file_roots": json.dumps([str(photographs)]),
    }
    worker = Worker(folder / "worker.log", settings)
    with _starting(console, "unlensed serve") as say:
        worker.start()
        stack.push(lambda kind, *_: worker.kill() if kind else _report_exit_code(console, worker.stop()))
        worker.wait_ready()
        while worker.pid and not any(line["event"] == "partitions assigned" for line in worker.read_events()):
            time.sleep(0.05)
        say(f"{worker.find_url()}/metrics, the golden faces passed")
    return kafka.bootstrap, worker


def _report_exit_code(console: Console, code: int) -> None:
    if code:
        console.print(f"unlensed serve exited with code {code}", style="bold red")


@contextmanager
def _starting(console: Console, name: str) -> Iterator[Callable[[str], None]]:
    started_s = time.monotonic()
    with console.status(f"starting {name} ..."):
        yield lambda what: console.print(
            f"[green]ok[/]  [bold]{name:<14}[/] {what} [dim]({time.monotonic() - started_s:.1f} s)[/]",
            highlight=False,
            soft_wrap=True,
        )


def _interrupt(*_: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not leave a server behind
    raise KeyboardInterrupt


def main() -> None:
    """Run the demo; the servers that it starts are stopped in every case."""
    parser = argparse.ArgumentParser(description="Scores a stream of photographs with Kafka, Triton and a worker.")
    parser.add_argument("--photos", type=Path, help="your pictures [default: variants of a public-domain portrait]")
    parser.add_argument("--out", type=Path, default=Path("demo-output/stream"), help="emptied, then filled")
    arguments = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    console = Console(highlight=False)
    folder = arguments.out.absolute()
    photographs = (arguments.photos or folder / "photographs").resolve()
    try:
        shutil.rmtree(folder, ignore_errors=True)
        if not arguments.photos:
            make_photographs(photographs)
        requests = make_requests(photographs, ours=not arguments.photos)
        with ExitStack() as stack:
            bootstrap, worker = start_all(console, stack, folder, photographs)
            console.print()
            demo = Demo(bootstrap, worker)
            show_one_by_one(demo, requests, Rows(console), folder / "results.jsonl")
            burst_s = send_at_once(demo, requests, console)
            console.print()
            summarise(console, demo, burst_s, folder)
            stack.enter_context(console.status("stopping ..."))
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        sys.exit(130)
    except (KafkaUnavailable, TritonFailed, WorkerFailed, UsageError) as error:
        sys.exit(f"stream demo: {error}")


if __name__ == "__main__":
    main()
