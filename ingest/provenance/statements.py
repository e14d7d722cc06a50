"""What a file states about its origin. A statement is reported beside the score and never changes it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from ingest.image_metadata import clean_text

MAX_STATEMENTS, MAX_STATEMENT_CHARACTERS = 24, 200
# The codes of IPTC and C2PA for media of which all or a part was generated.
GENERATED_SOURCE_TYPES = frozenset(
    {
        "trainedalgorithmicmedia",
        "compositewithtrainedalgorithmicmedia",
        "algorithmicmedia",
        "compositesynthetic",
        "trainedalgorithmicdata",
    }
)


class StatementKind(StrEnum):
    """What a statement is about; `metadata` only if the file's metadata could not be read."""

    C2PA_MANIFEST = "c2pa_manifest"
    DIGITAL_SOURCE_TYPE = "digital_source_type"
    GENERATOR = "generator"
    SOFTWARE = "software"
    CAMERA = "camera"
    METADATA = "metadata"


class StatementSource(StrEnum):
    """The part of the file that contains a statement."""

    C2PA = "c2pa"
    C2PA_INGREDIENT = "c2pa_ingredient"
    XMP = "xmp"
    IIM = "iim"
    EXIF = "exif"
    PNG_TEXT = "png_text"
    FILE = "file"


class Validity(StrEnum):
    """Whether a signature confirms a statement.

    `trusted`: signed for exactly these bytes, by a signer of the trust list. `valid`: likewise, but the signer can be
    anybody. `invalid`: the signature or a digest does not match. `unverified`: anybody can write it, and nothing
    confirms it. `unreadable`: it could not be read.
    """

    TRUSTED = "trusted"
    VALID = "valid"
    INVALID = "invalid"
    UNVERIFIED = "unverified"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a file states about its origin: one line. A statement never changes a score, and never lowers a decision.

    Only a C2PA manifest whose signature covers exactly these bytes is `trusted` or `valid`.
    """

    kind: StatementKind
    statement: str  # printable, at most MAX_STATEMENT_CHARACTERS
    source: StatementSource
    validity: Validity = Validity.UNVERIFIED

    @property
    def says_generated(self) -> bool:
        """Whether it says that all or a part of the image was generated."""
        if self.kind is StatementKind.DIGITAL_SOURCE_TYPE:
            return self.statement.rstrip("/").rsplit("/", 1)[-1].lower() in GENERATED_SOURCE_TYPES
        return self.kind is StatementKind.GENERATOR

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return the statement of a JSON object from a process that is not trusted.

        Raises:
            KeyError, TypeError, ValueError: it is no statement.
        """
        return cls(
            StatementKind(values["kind"]),
            make_line(values["statement"]),
            StatementSource(values["source"]),
            Validity(values["validity"]),
        )


def make_line(text: str) -> str:
    """Return one line of printable characters, shortened."""
    return clean_text(text[: 4 * MAX_STATEMENT_CHARACTERS].encode(errors="replace"), MAX_STATEMENT_CHARACTERS)


def describe_statements(statements: Iterable[Statement]) -> list[dict[str, Any]]:
    """Return the first `MAX_STATEMENTS` different statements as JSON objects."""
    return [asdict(each) for each in list(dict.fromkeys(statements))[:MAX_STATEMENTS]]


def parse_statements(values: Iterable[Mapping[str, Any]]) -> tuple[Statement, ...]:
    """Return the statements of a process that is not trusted.

    Raises:
        KeyError, TypeError, ValueError: they are no statements.
    """
    return tuple(Statement.parse(each) for each in list(values)[:MAX_STATEMENTS])
