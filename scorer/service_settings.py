"""The service's deployment facts; `scorer.settings` nests them, so that `UNLENSED_STREAM__GROUP` sets `group`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from scorer.sections import Count, Seconds, SettingsSection

Mode = Literal["live", "shadow"]
Delivery = Literal["at_least_once", "exactly_once"]


class StreamSettings(SettingsSection):
    """What is read, what is written, and how much is held at once.

    A shadow scores the same requests and cannot be mistaken for the live service: its group, results and dead
    letters bear the suffix `.shadow`, always.
    """

    mode: Mode = "live"
    delivery: Delivery = "at_least_once"
    group: str = "unlensed"
    requests: str = "unlensed.requests"
    results: str = "unlensed.results"
    dead_letters: str = "unlensed.dead-letters"
    policies: Path | None = None
    max_record_bytes: Count = 48 * 2**20
    max_json_bytes: Count = 1 * 2**20
    max_in_flight_images: Count = 128
    max_in_flight_bytes: Count = 256 * 2**20
    batch_images: Count = 32
    batch_bytes: Count = 32 * 2**20
    batch_age_s: Seconds = 0.02
    batches_in_flight: Count = 3
    detector_processes: Count = 1
    detector_timeout_s: Seconds = 8
    drain_s: Seconds = 25
    revoke_s: Seconds = 5

    @property
    def group_id(self) -> str:
        """The consumer group."""
        return self._of_mode(self.group)

    @property
    def results_topic(self) -> str:
        """Where results go."""
        return self._of_mode(self.results)

    @property
    def dead_letters_topic(self) -> str:
        """Where records go that get no result."""
        return self._of_mode(self.dead_letters)

    def _of_mode(self, name: str) -> str:
        return name if self.mode == "live" else f"{name}.{self.mode}"


class KafkaSettings(SettingsSection):
    """How to reach the brokers.

    `instance_id` makes the membership static: a worker that died keeps its partitions for `session_timeout_s`. One that
    leaves in good order gives them up at once, unless it `stays_member` because it comes back within that time.

    OAUTHBEARER shows the token in `token_file`, which is read anew for each connection; AWS_MSK_IAM takes its identity
    from where AWS's own programs take it. The other mechanisms need `username` and `password`.
    """

    bootstrap: str = "127.0.0.1:9092"
    security: Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"] = "plaintext"
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER", "AWS_MSK_IAM"] = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    instance_id: str | None = None
    stays_member: bool = False
    session_timeout_s: Seconds = 45
    max_poll_interval_s: Seconds = 300
    transaction_timeout_s: Seconds = 60


class TritonSettings(SettingsSection):
    """Where the engine is. Without `url` the service scores in its own process."""

    url: str | None = None
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout_s: Seconds = 20


class HealthSettings(SettingsSection):
    """The HTTP port for probes and metrics; 0 takes a free one and logs it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    max_poll_age_s: Seconds = 30
    max_canary_age_s: Seconds = 300
    canary_every_s: Seconds = 15
