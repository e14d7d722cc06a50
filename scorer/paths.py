"""Which files `unlensed score` means: files, directories, globs and a list on standard input."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote_to_bytes, urlsplit

from pydantic import TypeAdapter, ValidationError

from ingest.reasons import Reason, Unscorable
from scorer.messages import ImageSource, RequestedFace, ScoreRequest, describe_problems
from scorer.text_files import decode_text

# In a directory, a file is an image by its name; a file that is named outright is always answered for.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
)
Boxes = dict[str, tuple[RequestedFace, ...]]


class UsageError(ValueError):
    """The command line names something that cannot be used; the sentence names it."""


def expand_paths(arguments: Iterable[str], standard_input: TextIO) -> list[Path]:
    """Return the files that `arguments` name, each once, in order.

    Raises:
        UsageError: an argument matches nothing, or a directory holds no image.
    """
    return list(dict.fromkeys(path for argument in arguments for path in _expand(argument, standard_input)))


def _expand(argument: str, standard_input: TextIO) -> Iterator[Path]:
    if argument == "-":
        yield from (Path(line.rstrip("\n")) for line in standard_input if line.strip())
        return
    path = Path(argument)
    if path.is_dir():
        images = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())
        if not images:
            message = f"{argument} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
            raise UsageError(message)
        yield from images
    elif path.exists() or path.is_symlink():
        yield path
    elif matches := sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute patterns
        for match in matches:
            yield from _expand(match, standard_input)
    else:
        message = f"{argument} does not exist and matches no file"
        raise UsageError(message)


def read_boxes(path: Path) -> Boxes:
    """Read a `--faces` file: `{"path of the image": [{"face_id": "a", "box": [x, y, width, height]}]}`.

    Raises:
        UsageError: the file cannot be read, is no such JSON, or a box is not finite or has no area.
    """
    try:
        return TypeAdapter(Boxes).validate_json(decode_text(path.read_bytes()))
    except (OSError, ValueError) as error:
        why = describe_problems(error).removeprefix(": ") if isinstance(error, ValidationError) else error
        message = f"{path} is no file of face boxes: {why}"
        raise UsageError(message) from error


def request_for(path: Path, boxes: Boxes | None) -> ScoreRequest:
    """Return the request that scores `path`; with `boxes`, an image they do not name has no face."""
    # A file name may hold bytes that are no text; the id shows them escaped, the URI keeps them exactly.
    name = os.fsencode(path).decode(errors="backslashreplace")
    faces = None if boxes is None else boxes.get(name, ())
    image = ImageSource(uri=path.absolute().as_uri())
    return ScoreRequest(request_id=name, content_id=name, image=image, faces=faces)


def read_image(uri: str, max_bytes: int) -> bytes:
    """Read the file at a `file:` URI whole.

    Raises:
        Unscorable: it is gone, forbidden, no regular file (a pipe would block for ever), or too large.
    """
    path = Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise Unscorable(Reason.UNREADABLE, "not a regular file")
        if facts.st_size > max_bytes:
            raise Unscorable(Reason.TOO_MANY_BYTES, f"{facts.st_size} bytes, the limit is {max_bytes}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a listed name holds a NUL
        raise Unscorable(Reason.UNREADABLE, getattr(error, "strerror", None) or str(error)) from error
