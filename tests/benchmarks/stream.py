"""`make bench`, second part: the service beside `score`, on this machine and the same photographs with given boxes.

Prints, never asserts. A real broker, a real Triton server and one worker share the machine's cores with each other,
and, in the table of latencies, with the producer. Times are the broker's: it stamps requests and results as it
appends them. Requests for the rates lie in the topic before the worker starts, so that it never starves.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import mean

import numpy as np
import psutil
from bench import ROOT, STAGE_IMAGES, measure_end_to_end
from photographs import encode_faces, make_photographs
from resnet_bundle import make_resnet_bundle
from rich.console import Console
from rich.table import Table
from topics import (
    DEAD_LETTERS,
    PARTITIONS,
    STAMPED,
    Result,
    answer_records,
    open_producer,
    produce,
    rate_of,
    read_results,
    wait_answered,
    write_values,
)

from deploy.local.kafka import KafkaServer
from deploy.local.triton import TritonServer
from deploy.local.worker import Worker
from ingest.probe import EncodedFace
from ingest.spec import PreprocessSpec
from scorer.engines.triton.embedder import TritonEmbedder
from scorer.local_scorer import LocalScorer
from scorer.settings import Settings, StreamSettings, TritonSettings

REQUESTS = "bench.requests"
WARM_UP_IMAGES = 384
CLIENT_RECORDS = 1024
EMBED_ROUNDS = 3
WARM_UP_S = 10
LOADS = (0.5, 0.9)
OVERLOAD = 1.5


@dataclass(frozen=True, slots=True)
class StreamRun:
    """One worker in its steady state: images per second, and core-seconds per image of each process."""

    rate: float
    core_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SteadyRun:
    """A worker under a constant load.

    Attributes:
        sent: images per second, as the producer kept it up.
        answered: images per second, while the producer sent.
        latencies_ms: from each request to its result, by the broker's clock.
    """

    sent: float
    answered: float
    latencies_ms: Sequence[float]


class Bench:
    """A broker and an engine, the requests in their topic, and workers on demand.

    Args:
        settings: of every worker, on top of where things are.
    """

    def __init__(self, folder: Path, kafka: KafkaServer, bundle: Path, settings: Mapping[str, str]) -> None:
        self.kafka, self.bundle, self._folder, self._settings = kafka, bundle, folder, settings
        folder.mkdir()
        self.triton = TritonServer(bundle, folder)
        self._names = (f"{folder.name}.{number}" for number in count())

    def worker(self, requests: str) -> tuple[Worker, str]:
        """Return a worker that answers all of a topic, not started, and its results' topic."""
        name = next(self._names)
        self.kafka.create_topic(name, PARTITIONS, **STAMPED)
        facts = {
            "bundle": self.bundle,
            "kafka__bootstrap": self.kafka.bootstrap,
            "triton__url": self.triton.url,
            "stream__group": name,
            "stream__requests": requests,
            "stream__results": name,
        }
        return Worker(self._folder / f"{name}.log", {**facts, **self._settings}), name

    def processes(self, worker: Worker | None = None) -> dict[str, psutil.Process]:
        """Return every process of the service."""
        server = psutil.Process(self.triton.pid)
        found = {"Kafka: broker": psutil.Process(self.kafka.pid), "Triton: server": server}
        for stub in server.children(recursive=True):
            command = " ".join(stub.cmdline())
            found |= {f"Triton: {name}": stub for name in ("crops", "extractor") if f"/face_{name}/1/" in command}
        if worker:
            found["worker"] = psutil.Process(worker.pid)
            for number, child in enumerate(found["worker"].children(recursive=True)):
                found[f"worker: detector process {number}"] = child
        return found


class CoreSeconds:
    """The CPU time of processes since its creation; `elsewhere` is that of all other processes of the machine."""

    def __init__(self, processes: Mapping[str, psutil.Process]) -> None:
        self._processes, self._before, self._at_s = processes, self._read(processes), time.monotonic()

    def since(self) -> dict[str, float]:
        """Return core-seconds by process; `wall` is the time that passed."""
        now = self._read(self._processes)
        used = {name: now[name] - before for name, before in self._before.items()}
        ours = sum(seconds for name, seconds in used.items() if name != "elsewhere")
        return used | {"elsewhere": used["elsewhere"] - ours, "wall": time.monotonic() - self._at_s}

    @staticmethod
    def _read(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
        used = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        machine = psutil.cpu_times()
        return used | {"elsewhere": sum(machine) - machine.idle - machine.iowait}


def measure_stream(bench: Bench, seconds: float) -> tuple[StreamRun, Result]:
    """Run a worker on the waiting requests for `seconds` after its warm-up; also return one of its results."""
    worker, topic = bench.worker(REQUESTS)
    with worker:
        worker.wait_ready()
        answered = wait_answered(worker, WARM_UP_IMAGES)
        cores, from_ms = CoreSeconds(bench.processes(worker)), time.time() * 1000
        time.sleep(seconds)
        used, until_ms = cores.since(), time.time() * 1000
        answered = wait_answered(worker, 0) - answered
    results = read_results(bench.kafka, topic)
    times = [result.timestamp_ms for result in results if from_ms <= result.timestamp_ms <= until_ms]
    return StreamRun(rate_of(times), {name: value / answered for name, value in used.items()}), results[0]


def measure_kafka(bench: Bench, answer: Result) -> tuple[float, float]:
    """Return core-seconds per record of client and broker for answers without any scoring."""
    batches = answer_records(bench.kafka, REQUESTS, f"{bench.bundle.name}.client", answer.value)
    next(batches)
    cores, done = CoreSeconds({"client": psutil.Process(), "broker": psutil.Process(bench.kafka.pid)}), 0
    while done < CLIENT_RECORDS:
        done += next(batches)
    used = cores.since()
    batches.close()
    return used["client"] / done, used["broker"] / done


def measure_engines(bench: Bench, scorer: LocalScorer, faces: Sequence[EncodedFace]) -> dict[str, float]:
    """Return core-seconds per image of the engine in this process, and of Triton and its client."""
    triton = TritonEmbedder(scorer.bundle, TritonSettings(url=bench.triton.url))
    batches = [faces[start : start + 32] for start in range(0, len(faces), 32)]
    used: dict[str, float] = {}
    with ThreadPoolExecutor(StreamSettings().batches_in_flight) as pool:
        jobs: dict[str, Callable[[], object]] = {
            "local": lambda: scorer.embedder.embed(faces),
            "Triton": lambda: list(pool.map(triton.embed, batches)),
        }
        for name, job in jobs.items():
            job()
            cores = CoreSeconds({"here": psutil.Process(), **bench.processes()})
            for _ in range(EMBED_ROUNDS):
                job()
            spent = {key: value / EMBED_ROUNDS / len(faces) for key, value in cores.since().items()}
            used |= {name: spent["here"], f"{name} server": sum(v for k, v in spent.items() if k.startswith("Triton"))}
    triton.close()
    return used


def send_steadily(bench: Bench, values: Sequence[bytes], rate: float, seconds: float) -> SteadyRun:
    """Send at a constant rate, independent of the answers, and wait for the answers.

    Half of the rate warms up before: what a cold worker leaves behind would take minutes to go at a high load.
    """
    worker, topic = bench.worker(requests := f"{bench.bundle.name}.{rate:.3f}")
    bench.kafka.create_topic(requests, PARTITIONS, **STAMPED)
    producer, sent = open_producer(bench.kafka), []
    with worker:
        worker.wait_ready()
        warm_up, steady = int(WARM_UP_S * rate / 2), int(seconds * rate)
        started_s = time.monotonic() + WARM_UP_S
        for number in range(-warm_up, steady):
            due_s = started_s + (number / rate if number >= 0 else 2 * number / rate)
            time.sleep(max(0.0, due_s - time.monotonic()))
            sent.append(producer.send(requests, values[number % len(values)], key=b"%d" % len(sent)))
        producer.flush(60)
        kept = steady / (time.monotonic() - started_s)
        wait_answered(worker, len(sent))
    stamps = [future.get().timestamp for future in sent]
    producer.close()
    results = [each for each in read_results(bench.kafka, topic) if each.number >= warm_up]
    times = [each.timestamp_ms for each in results if each.timestamp_ms <= max(stamps)]
    return SteadyRun(kept, rate_of(times), [each.timestamp_ms - stamps[each.number] for each in results])


def cost_table(name: str, runs: Sequence[StreamRun]) -> Table:
    """Return the processes that used the cores, as a mean of the runs."""
    table = Table("process", "core-ms / image", "share", title=f"{name}: cores while streaming")
    core_s = {key: mean(run.core_s[key] for run in runs) for key in runs[0].core_s}
    available = core_s.pop("wall") * len(os.sched_getaffinity(0))
    core_s["idle"] = available - sum(core_s.values())
    for key, value in sorted(core_s.items(), key=lambda each: each[0] in ("elsewhere", "idle")):
        table.add_row(key, f"{value * 1000:.2f}", f"{value / available:.1%}")
    return table


def overhead_table(name: str, worker_s: float, kafka: tuple[float, float], engines: Mapping[str, float]) -> Table:
    """Return the cost of Kafka and Triton, measured alone, and the rest of the worker."""
    client, broker = kafka
    triton = engines["Triton"] + engines["Triton server"]
    table = Table("what", "core-ms / image", title=f"{name}: what the service's parts cost, each alone")
    rows = {
        "Kafka: client (fetch, produce, commit)": client,
        "Kafka: broker": broker,
        "Kafka: per-record overhead": client + broker,
        "Triton: client": engines["Triton"],
        "Triton: server and backends": engines["Triton server"],
        "the same engine in the process": engines["local"],
        "Triton: per-record overhead": triton - engines["local"],
        "rest of the worker (JSON, base64, probe, mixture, result)": worker_s - client - engines["Triton"],
    }
    for what, core_s in rows.items():
        table.add_row(what, f"{core_s * 1000:.2f}", end_section="overhead" in what)
    return table


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 s for each load instead of 60")
    parser.add_argument("--rounds", type=int, default=3, help="alternations of score and stream")
    parser.add_argument("--seconds", type=float, default=20, help="length of each round in steady state")
    parser.add_argument("--bundle", choices=("starter", "resnet"), help="only this one")
    parser.add_argument("--no-latency", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="stream__batch_images=16")
    return parser.parse_args()


def main() -> None:
    """Print all tables."""
    options = parse_options()
    settings = dict(each.split("=", 1) for each in options.set)
    console, threads = Console(), len(os.sched_getaffinity(0))
    rates = Table("bundle", "round", "score, images/s", "stream, images/s", "ratio", title=f"{threads} cores, all told")
    latencies = Table("bundle", "load", "images/s", "p50 ms", "p99 ms", "images", title="request to result")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (scratch / "photographs").mkdir()
        requests = make_photographs(scratch / "photographs", STAGE_IMAGES)
        values = write_values(requests)
        faces = encode_faces(requests, PreprocessSpec())
        bundles = {"starter": ROOT / "model_repository"}
        if options.bundle != "starter":
            bundles["resnet"] = make_resnet_bundle(bundles["starter"], scratch / "resnet", faces)
        if options.bundle:
            bundles = {options.bundle: bundles[options.bundle]}
        kafka = stack.enter_context(KafkaServer(scratch / "kafka"))
        kafka.create_topic(DEAD_LETTERS)
        filled = 0
        for name, bundle in bundles.items():
            scorer = LocalScorer(Settings(bundle=bundle, threads=threads))
            bench = Bench(scratch / f"bench-{name}", kafka, bundle, settings)
            with bench.triton:
                runs, ratios = [], []
                for number in range(1, options.rounds + 1):
                    score = measure_end_to_end(scorer, requests)
                    if not filled:  # enough for the run, unless the other bundle is much faster
                        filled = int(1.2 * score * (options.seconds + 5)) + 2 * WARM_UP_IMAGES
                        produce(kafka, REQUESTS, values, filled)
                    run, answer = measure_stream(bench, options.seconds)
                    runs.append(run)
                    ratios.append(run.rate / score)
                    rates.add_row(name, str(number), f"{score:.1f}", f"{run.rate:.1f}", f"{ratios[-1]:.0%}")
                rates.add_row(name, "mean", "", f"{mean(r.rate for r in runs):.1f}", f"{mean(ratios):.0%}")
                rates.add_section()
                console.print(cost_table(name, runs))
                costs = measure_kafka(bench, answer), measure_engines(bench, scorer, faces)
                console.print(overhead_table(name, mean(run.core_s["worker"] for run in runs), *costs))
                if options.no_latency:
                    continue
                # The producer shares the cores, so the loads are relative to the rate of the service beside a producer.
                capacity = send_steadily(bench, values, OVERLOAD * mean(r.rate for r in runs), 20).answered
                latencies.add_row(name, "capacity", f"{capacity:.1f}")
                for load in LOADS:
                    steady = send_steadily(bench, values, load * capacity, 20 if options.quick else 60)
                    p50, p99 = np.percentile(steady.latencies_ms, (50, 99))
                    number = str(len(steady.latencies_ms))
                    latencies.add_row(name, f"{load:.0%}", f"{steady.sent:.1f}", f"{p50:.0f}", f"{p99:.0f}", number)
        console.print(rates)
        if latencies.row_count:
            console.print(latencies)
        console.print(f"mean record {mean(map(len, values)) / 1024:.0f} KiB; load average {os.getloadavg()}")


if __name__ == "__main__":
    main()
