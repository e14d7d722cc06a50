"""One `unlensed serve` process on this machine, for the demo, the fault tests and the benchmarks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

PROGRAM = "from scorer.commands.main import main; main()"
START_S = 120
STOP_S = 60


class WorkerFailed(RuntimeError):
    """The worker exited or did not become ready; the message ends with the end of its log."""


class Worker:
    """A worker process that can be started, stopped, killed and restarted.

    Args:
        log: the file of its log, JSON lines; later starts append.
        settings: `UNLENSED_*` variables without the prefix, in lower case: `kafka__bootstrap`, `triton__url`.
        program: the Python program to run; some fault tests run a modified one.
    """

    def __init__(self, log: Path, settings: dict[str, object], program: str = PROGRAM) -> None:
        self.log, self._program = log, program
        kept = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}
        ours = {f"UNLENSED_{name}".upper(): str(value) for name, value in settings.items()}
        self._environment = kept | {"UNLENSED_HEALTH__PORT": "0"} | ours
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0

    @property
    def pid(self) -> int | None:
        """The worker's process, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start, and return at once."""
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this project's own program
                [sys.executable, "-c", self._program, "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C reaches the parent only, which then stops the worker in order
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Wait until `/health/ready` of the worker succeeds.

        Raises:
            WorkerFailed: it exited, or is not ready within two minutes.
        """
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.pid:
            if (url := self.find_url()) and _answers(f"{url}/health/ready"):
                return
            time.sleep(0.1)
        message = (
            f"the worker is not ready (exit code {self.exit_code}); {self.log} ends with: {self.read_log()[-2000:]}"
        )
        raise WorkerFailed(message)

    def find_url(self) -> str | None:
        """Return the URL of health and metrics, once the worker has logged it."""
        return next((line["url"] for line in self.read_events() if line.get("event") == "health and metrics"), None)

    def read_metric(self, name: str) -> float:
        """Return the sum of a metric's series."""
        with urlopen(f"{self.find_url()}/metrics") as page:  # noqa: S310 - our own worker on the loopback
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def read_events(self) -> list[dict[str, str]]:
        """Return the log lines of this start."""
        lines = self.read_log().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def read_log(self) -> str:
        """Return the log since this start."""
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            return log.read().decode(errors="replace")

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        return self._signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            self.stop()

    def _signal(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self.pid:
            self._process.send_signal(how)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as page:  # noqa: S310 - our own worker on the loopback
            return page.status == 200  # noqa: PLR2004 - HTTP's OK
    except (URLError, OSError):
        return False
