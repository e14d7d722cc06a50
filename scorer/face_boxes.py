"""Face boxes that the user provides: in a `--faces` file, or in a row of a manifest."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from scorer.errors import UsageError
from scorer.messages import MAX_FACES, RequestedFace, describe_problems
from scorer.text_files import decode_text

MAX_TEXT_BYTES = 2**20

Faces = tuple[RequestedFace, ...]
_FACES: TypeAdapter[Faces] = TypeAdapter(Annotated[Faces, Field(max_length=MAX_FACES)])


def read_faces(value: object, where: str) -> Faces | None:
    """Return the faces of one row: a list of `{face_id, box: [x, y, width, height]}`, or JSON text of one.

    Null or an empty text means "find the faces"; an empty list means that there is no face.

    Raises:
        UsageError: it is neither, a `face_id` is repeated, or a box is not finite or has no area.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str | bytes) and len(value) > MAX_TEXT_BYTES:
        message = f"{where} has no usable faces: {len(value)} bytes of JSON, over the limit of {MAX_TEXT_BYTES}"
        raise UsageError(message)
    try:
        faces = _FACES.validate_json(value) if isinstance(value, str | bytes) else _FACES.validate_python(value)
    except ValidationError as error:
        message = f"{where} has no usable faces: {describe_problems(error)}"
        raise UsageError(message) from error
    if len({face.face_id for face in faces}) < len(faces):
        message = f"{where} names a face_id twice"
        raise UsageError(message)
    return faces


def write_faces(faces: Faces | None) -> str | None:
    """Return the JSON text that `read_faces` reads again."""
    return None if faces is None else _FACES.dump_json(faces).decode()


Boxes = dict[str, Faces]

MAX_BOXES_BYTES = 2**27  # a million images with a face each


def read_boxes(path: Path) -> Boxes:
    """Read a `--faces` file: `{"path of the image": [{"face_id": "a", "box": [x, y, width, height]}]}`.

    Raises:
        UsageError: the file cannot be read, is not such JSON, names an image twice, or a box is not finite or has no
            area.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BOXES_BYTES + 1)
        if len(data) > MAX_BOXES_BYTES:
            message = f"it has more than {MAX_BOXES_BYTES} bytes: name the faces in a manifest (--faces-column)"
            raise UsageError(message)
        content = json.loads(decode_text(data), object_pairs_hook=_refuse_repetition)
        return TypeAdapter(Boxes).validate_python(content)
    except (OSError, ValueError, RecursionError) as error:
        why = describe_problems(error) if isinstance(error, ValidationError) else error
        message = f"{path} is not a file of face boxes: {why}"
        raise UsageError(message) from error


def _refuse_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        message = f"it names {repeated!r} twice"
        raise ValueError(message)
    return content
