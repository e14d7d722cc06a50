"""Every setting of a deployment: a flag overrides the environment, the environment overrides the file.

An unknown name is refused.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ingest.clips import ClipSettings
from ingest.device import Request
from ingest.probe import Limits
from scorer.decide import Policy, check_statement_rules
from scorer.errors import SettingsError
from scorer.messages import describe_problems

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class SettingsSection(BaseModel):
    """A group of settings: immutable, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PayloadSettings(SettingsSection):
    """What a claim check may name: everything is refused until it is listed.

    Attributes:
        schemes: fsspec protocols, `file` and `s3` among them.
        file_roots: the folders that `file://` may read, after links are resolved.
        https_hosts: exact host names; `https://` is refused for all others.
    """

    schemes: tuple[str, ...] = ()
    file_roots: tuple[Path, ...] = ()
    https_hosts: tuple[str, ...] = ()
    timeout_s: Seconds = 10


Mode = Literal["live", "shadow"]
Delivery = Literal["at_least_once", "exactly_once"]


class StreamSettings(SettingsSection):
    """The topics of the service and the limits of the work in flight.

    A service in shadow mode scores the same requests and cannot be confused with the live service: its group and its
    topics of results and dead letters always have the suffix `.shadow`.
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
        """The topic of results."""
        return self._of_mode(self.results)

    @property
    def dead_letters_topic(self) -> str:
        """The topic of records that get no result."""
        return self._of_mode(self.dead_letters)

    def _of_mode(self, name: str) -> str:
        return name if self.mode == "live" else f"{name}.{self.mode}"


class KafkaSettings(SettingsSection):
    """How to connect to the brokers.

    `instance_id` makes the membership static: a worker that crashed keeps its partitions for `session_timeout_s`. A
    worker that shuts down normally leaves the group at once, unless `stays_member` is set because it will restart
    within that time.

    OAUTHBEARER sends the token in `token_file`, which is read for each connection; AWS_MSK_IAM uses the default
    credential chain of AWS. The other mechanisms need `username` and `password`.
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
    """The Triton server. Without `url` the service scores in its own process."""

    url: str | None = None
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout_s: Seconds = 20


class HealthSettings(SettingsSection):
    """The HTTP server of probes and metrics; port 0 selects a free port, which is logged."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    max_poll_age_s: Seconds = 30
    max_canary_age_s: Seconds = 300
    canary_every_s: Seconds = 15


class ApiSettings(SettingsSection):
    """The HTTP service and its limits; port 0 selects a free port, which is logged.

    Beyond `max_in_flight_images`, `max_in_flight_bytes` or `max_in_flight_explanations` a request is refused with 429.
    `cache_bytes` is the most that stored results may take; 0 stores none.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    policies: Path | None = None
    token_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    max_connections: Count = 512
    max_body_bytes: Count = 96 * 2**20
    max_json_bytes: Count = 1 * 2**20
    max_images_per_request: Count = 16
    max_in_flight_images: Count = 128
    max_in_flight_bytes: Count = 256 * 2**20
    body_timeout_s: Seconds = 30
    answer_timeout_s: Seconds = 60
    max_in_flight_explanations: Count = 4
    batch_images: Count = 32
    batch_bytes: Count = 32 * 2**20
    batch_age_s: Annotated[float, Field(ge=0)] = 0
    cache_bytes: Annotated[int, Field(ge=0)] = 0
    drain_s: Seconds = 25


class ProvenanceSettings(SettingsSection):
    """Whether results list what images state about their origin; rules of a policy need it.

    Statements never change a score, and never lower a decision.

    Attributes:
        enabled: read C2PA manifests and metadata; needs the extra `provenance`.
        trust_list: a PEM file of the certificates whose C2PA manifests are `trusted`; without it none is.
    """

    enabled: bool = False
    trust_list: Path | None = None

    def read_trust(self) -> str | None:
        """Return the text of the trust list, empty without one; None if statements are not to be read.

        Raises:
            SettingsError: the file cannot be read, or contains no certificate.
        """
        if not self.enabled or self.trust_list is None:
            return "" if self.enabled else None
        from cryptography import x509  # noqa: PLC0415 - of the extra

        try:
            x509.load_pem_x509_certificates(self.trust_list.read_bytes())
            return self.trust_list.read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            message = f"provenance.trust_list {self.trust_list} is not a PEM file of certificates: {error}"
            raise SettingsError(message) from error


PREFIX = "UNLENSED_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"

# Variables of this repository's own tools and adapters, which an environment contains beside those of the service.
_TOOLS = (
    "KAFKA_JARS",
    "TOOLS",
    "KILLS",
    "RECORDS",
    "RESTARTS",
    "OVERLOAD_S",
    "EXAMPLES",
    "RANDOM_S",
    "SEED",
    "URL",
    "TOKEN",
)
TOOL_VARIABLES = frozenset(f"{PREFIX}{name}" for name in _TOOLS)


def find_starter() -> Path:
    """Return the folder of the starter bundle: beside the packages in a checkout, in the package when installed."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "model_repository"
    return checkout if (checkout / "bundle.json").is_file() else package / "model_repository"


class Settings(BaseSettings):
    """What may differ between two deployments of the same bundle. Facts of the model are in the bundle only."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    bundle: Path = Field(default_factory=find_starter)
    # The bundle that is accepted (`scorer.bundle.signature`): the SHA-256 of its manifest, and the key that signed it.
    bundle_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    bundle_key: Path | None = None
    device: Request = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=lambda: len(os.sched_getaffinity(0)))
    batch_images: Annotated[int, Field(ge=1, le=1024)] = 64
    policy: Policy = Policy()
    limits: Limits = Limits()
    video: ClipSettings = ClipSettings()
    stream: StreamSettings = StreamSettings()
    kafka: KafkaSettings = KafkaSettings()
    triton: TritonSettings = TritonSettings()
    payloads: PayloadSettings = PayloadSettings()
    health: HealthSettings = HealthSettings()
    api: ApiSettings = ApiSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    insecure_dev: bool = False

    @model_validator(mode="after")
    def _rules_have_statements(self) -> "Settings":
        check_statement_rules(self.policy, read=self.provenance.enabled)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a file in the working folder must have no effect
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets are not read from files of a folder
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: flags, environment, the file that `UNLENSED_CONFIG` names."""
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if file := os.environ.get(CONFIG_VARIABLE):
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=Path(file)))
        return tuple(sources)


def load_settings(**flags: Any) -> Settings:  # noqa: ANN401 - validated by Settings
    """Return the settings; a flag that is None was not given.

    Raises:
        SettingsError: an unknown name or an invalid value, in the file, the environment or a flag.
    """
    file = os.environ.get(CONFIG_VARIABLE)
    if file and not Path(file).is_file():
        message = f"{CONFIG_VARIABLE} names {file}, which is not a file"
        raise SettingsError(message)
    known = {CONFIG_VARIABLE, *(f"{PREFIX}{name}".upper() for name in Settings.model_fields)}
    for name in os.environ:
        if name.startswith(PREFIX) and name.split("__", maxsplit=1)[0] not in known | TOOL_VARIABLES:
            message = (
                f"the environment variable {name} is not a setting of unlensed; known are {', '.join(sorted(known))}"
            )
            raise SettingsError(message)
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValueError as error:
        why = describe_problems(error) if isinstance(error, ValidationError) else error
        message = f"bad configuration (flags, {PREFIX}* variables, {file or 'no file'}): {why}"
        raise SettingsError(message) from error
