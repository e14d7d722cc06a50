"""Deployment facts: file < environment (`UNLENSED_...`) < flag; a name that is not listed here is refused."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ingest.device import Request
from ingest.probe import Limits
from scorer.decide import Policy
from scorer.messages import describe_problems
from scorer.payloads.settings import PayloadSettings
from scorer.service_settings import HealthSettings, KafkaSettings, StreamSettings, TritonSettings

PREFIX = "UNLENSED_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"

# Variables of this repository's own tools, which stand in a developer's environment beside the service's.
TOOL_VARIABLES = frozenset(f"{PREFIX}{name}" for name in ("KAFKA_JARS", "TOOLS", "KILLS", "RECORDS", "OVERLOAD_S"))


class SettingsError(ValueError):
    """A setting is unknown or has no usable value; the sentence names it and where it came from."""


class Settings(BaseSettings):
    """What may differ between two deployments of the same bundle. Model facts live in the bundle only."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    bundle: Path = Path("model_repository")
    # What the bundle must be, see `scorer.bundle.signature`: the SHA-256 of its manifest, and the key that must have signed it.
    bundle_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    bundle_key: Path | None = None
    device: Request = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default_factory=lambda: len(os.sched_getaffinity(0)))
    batch_images: Annotated[int, Field(ge=1, le=1024)] = 64
    policy: Policy = Policy()
    limits: Limits = Limits()
    stream: StreamSettings = StreamSettings()
    kafka: KafkaSettings = KafkaSettings()
    triton: TritonSettings = TritonSettings()
    payloads: PayloadSettings = PayloadSettings()
    health: HealthSettings = HealthSettings()
    insecure_dev: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a file in the working folder must not decide
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - nothing here is a secret
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags over environment over the file that `UNLENSED_CONFIG` names."""
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if file := os.environ.get(CONFIG_VARIABLE):
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=Path(file)))
        return tuple(sources)


def load_settings(**flags: Any) -> Settings:  # noqa: ANN401 - validated by Settings
    """Return the settings; a flag that is None was not given.

    Raises:
        SettingsError: an unknown name or a bad value, in the file, the environment or a flag.
    """
    file = os.environ.get(CONFIG_VARIABLE)
    if file and not Path(file).is_file():
        message = f"{CONFIG_VARIABLE} names {file}, which is no file"
        raise SettingsError(message)
    known = {CONFIG_VARIABLE, *(f"{PREFIX}{name}".upper() for name in Settings.model_fields)}
    for name in os.environ:
        if name.startswith(PREFIX) and name.split("__", maxsplit=1)[0] not in known | TOOL_VARIABLES:
            message = f"the environment variable {name} is no setting of unlensed; known are {', '.join(sorted(known))}"
            raise SettingsError(message)
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValueError as error:
        why = describe_problems(error) if isinstance(error, ValidationError) else error
        message = f"bad configuration (flags, {PREFIX}* variables, {file or 'no file'}): {why}"
        raise SettingsError(message) from error
