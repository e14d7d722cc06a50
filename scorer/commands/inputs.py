"""The files that `unlensed score` scores, the files that it skips, and their boxes from `--faces`."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from pydantic import ValidationError

from scorer.archive.left_out import IMAGE_SUFFIXES, SIDECARS, classify_name
from scorer.errors import UsageError
from scorer.face_boxes import Boxes
from scorer.messages import MAX_FACES, RequestedFace, ScoreRequest, describe_problems
from scorer.payloads.local_file import name_file, request_file

_SHOWN_NAMES = 3
_UTF16_MARKS, _UTF8_MARK = (b"\xff\xfe", b"\xfe\xff"), b"\xef\xbb\xbf"


class Skipped(StrEnum):
    """Why a file or a whole folder is skipped; the text follows a number."""

    SUFFIX = "not named like an image"
    SIDECAR = "written by a system beside images"
    UNREADABLE = "not readable"
    LINKED = "linked, not followed"
    OWN_PICTURES = "of annotated pictures"
    NO_BOXES = "without boxes"
    UNUSED_BOXES = "boxes without a file"


class FacesMissing(StrEnum):
    """What happens to a file without boxes in the file of `--faces`, and to boxes without a file."""

    ERROR = "error"
    DETECT = "detect"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to score.

    Attributes:
        path: as given on the command line.
        folder: of the command line that contains it, if any.
        faces: given boxes; None finds the faces.
    """

    path: Path
    folder: Path | None = None
    faces: tuple[RequestedFace, ...] | None = None


@dataclass(slots=True)
class FoundFiles:
    """The files of a command line, each once, in order, and the number of skipped files by reason."""

    files: list[FoundFile] = field(default_factory=list)
    skipped: Counter[Skipped] = field(default_factory=Counter)


def expand_paths(arguments: Iterable[str], standard_input: BinaryIO, pictures: Path | None = None) -> FoundFiles:
    """Return the files that `arguments` name.

    Args:
        arguments: files, folders, globs, or `-` for a list on standard input.
        standard_input: one path per line, in bytes: UTF-8 with or without a byte-order mark, Unix or Windows line ends.
        pictures: the folder of annotated pictures, which is skipped inside a folder that is scored.

    Raises:
        UsageError: an argument names no file; the message states what was searched.
    """
    unique: dict[Path, FoundFile] = {}
    skipped: Counter[Skipped] = Counter()
    for argument in arguments:
        for file in _expand(argument, standard_input, pictures.resolve() if pictures else None, skipped):
            unique.setdefault(file.path, file)
    return FoundFiles(list(unique.values()), skipped)


def _expand(
    argument: str, standard_input: BinaryIO, pictures: Path | None, skipped: Counter[Skipped]
) -> list[FoundFile]:
    if argument == "-":
        return [FoundFile(path) for path in read_list(standard_input.read())]
    path = Path(argument)
    if path.is_dir():
        files = list(_walk(path, pictures, skipped))
        if not files:
            skipped_text = f"; skipped: {describe_counts(skipped)}" if skipped.total() else ""
            message = f"{argument} contains no image ({', '.join(sorted(IMAGE_SUFFIXES))}){skipped_text}"
            raise UsageError(message)
        return files
    if path.exists() or path.is_symlink():
        return [FoundFile(path)]
    matches = sorted(map(Path, glob.glob(argument, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute patterns
    files = []
    for match in matches:
        files += _walk(match, pictures, skipped) if match.is_dir() else [FoundFile(match)]
    if not files:
        what = "matches only folders without an image" if matches else "does not exist and matches no file"
        message = f"{argument} {what}"
        raise UsageError(message)
    return files


def _walk(folder: Path, pictures: Path | None, skipped: Counter[Skipped]) -> Iterator[FoundFile]:
    """Yield the images below a folder in order; links to folders are not followed."""

    def note_unreadable(_error: OSError) -> None:
        skipped[Skipped.UNREADABLE] += 1

    images = []
    for place, folders, names in os.walk(folder, onerror=note_unreadable):
        own = [name for name in folders if pictures and Path(place, name).resolve() == pictures]
        linked = [name for name in folders if Path(place, name).is_symlink()]
        for reason, left_out in ((Skipped.OWN_PICTURES, own), (Skipped.LINKED, linked)):
            skipped[reason] += len(set(left_out) & set(folders))
            folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            path = Path(place, name)
            if kind := classify_name(path.relative_to(folder).as_posix()):
                skipped[Skipped.SIDECAR if kind in SIDECARS else Skipped.SUFFIX] += 1
            else:
                images.append(path)
    yield from (FoundFile(path, folder) for path in sorted(images))


def read_list(content: bytes) -> list[Path]:
    """Return the paths of a list, one per line; empty lines are ignored.

    A carriage return is part of the name unless every line ends with one, as on Windows.

    Raises:
        UsageError: the list names nothing, or is UTF-16.
    """
    if content.startswith(_UTF16_MARKS):
        message = "the list on standard input is UTF-16: write it as UTF-8"
        raise UsageError(message)
    *ended, last = content.removeprefix(_UTF8_MARK).split(b"\n")
    if all(line.endswith(b"\r") for line in ended):
        ended = [line.removesuffix(b"\r") for line in ended]
    lines = [line for line in (*ended, last) if line.strip()]
    if not lines:
        message = "the list on standard input is empty: - expects one path per line"
        raise UsageError(message)
    return [Path(os.fsdecode(line)) for line in lines]


def describe_counts(counts: Counter[Any]) -> str:
    """Return counts as words, the largest first: `3 truncated, 1 unreadable`."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common() if count)


def assign_boxes(
    found: FoundFiles, boxes: Boxes | None, faces_missing: FacesMissing = FacesMissing.ERROR
) -> list[FoundFile]:
    """Return the files to score, with their boxes where `boxes` are given.

    A key of `boxes` is a path as given on the command line, an absolute path, or a path below a folder of the command
    line. A file that is skipped because it has no boxes is counted in `found.skipped`.

    Raises:
        UsageError: a file has no boxes, or boxes have no file, and `faces_missing` is ERROR; a key matches two files,
            or two keys match one file; an image has too many boxes or a repeated face_id; no file remains.
    """
    if boxes is None:
        return found.files
    key_of = _match_keys(found.files, boxes)
    without = [file.path for file in found.files if file.path not in key_of]
    unused = boxes.keys() - key_of.values()
    if faces_missing is FacesMissing.ERROR:
        _refuse("the file of --faces has no boxes for", without, "(an image without a face has the empty list [])")
        _refuse("the file of --faces has boxes for what is not scored here:", sorted(unused), "")
    found.skipped[Skipped.UNUSED_BOXES] += len(unused)
    if faces_missing is FacesMissing.SKIP:
        found.skipped[Skipped.NO_BOXES] += len(without)
    files = [
        replace(file, faces=boxes[key_of[file.path]]) if file.path in key_of else file
        for file in found.files
        if file.path in key_of or faces_missing is not FacesMissing.SKIP
    ]
    if not files:
        message = f"none of the {len(found.files)} files has boxes in the file of --faces"
        raise UsageError(message)
    for file in files:
        request_for(file)
    return files


def _match_keys(files: Sequence[FoundFile], boxes: Boxes) -> dict[Path, str]:
    """Return the key of each file that has one."""
    keys: dict[str, str] = {}
    for key in boxes:
        if (other := keys.setdefault(str(PurePath(key)), key)) != key:
            message = f"the file of --faces names one image as {other!r} and as {key!r}"
            raise UsageError(message)
    key_of: dict[Path, str] = {}
    file_of: dict[str, Path] = {}
    for file in files:
        names = {name_file(path): None for path in _names_of(file)}
        own = [keys[name] for name in names if name in keys]
        if len(own) > 1:
            message = f"the file of --faces names {file.path} as {own[0]!r} and as {own[1]!r}"
            raise UsageError(message)
        if own and (other_file := file_of.setdefault(own[0], file.path)) != file.path:
            message = (
                f"{own[0]!r} in the file of --faces may be {other_file} or {file.path}: name each by its whole path"
            )
            raise UsageError(message)
        if own:
            key_of[file.path] = own[0]
    return key_of


def _names_of(file: FoundFile) -> Iterator[Path]:
    yield file.path
    yield file.path.absolute()
    if file.folder is not None:
        yield file.path.relative_to(file.folder)


def _refuse(what: str, names: Sequence[object], hint: str) -> None:
    if names:
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        shown = ", ".join(map(str, names[:_SHOWN_NAMES]))
        message = f"{what} {shown}{more}{f' {hint}' if hint else ''}: correct it, or use --faces-missing detect or skip"
        raise UsageError(message)


def request_for(file: FoundFile) -> ScoreRequest:
    """Return the request that scores a file.

    Raises:
        UsageError: there are too many boxes, or a face_id is repeated.
    """
    try:
        return request_file(file.path, file.faces)
    except ValidationError as error:
        message = f"{name_file(file.path)} cannot be scored (at most {MAX_FACES} boxes): {describe_problems(error)}"
        raise UsageError(message) from error
