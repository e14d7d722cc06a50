"""Boxes of faces that a manifest brings along."""

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from scorer.commands.inputs import UsageError
from scorer.messages import MAX_FACES, RequestedFace, describe_problems

MAX_TEXT_BYTES = 2**20
Faces = tuple[RequestedFace, ...]
_FACES: TypeAdapter[Faces] = TypeAdapter(Annotated[Faces, Field(max_length=MAX_FACES)])


def read_faces(value: object, where: str) -> Faces | None:
    """Return the faces of one row: a list of `{face_id, box: [x, y, width, height]}`, or JSON text of one.

    Nothing (null, an empty text) means "find them", an empty list means that there is no face.

    Raises:
        UsageError: it is neither, a face's name comes twice, or a box is not finite or has no area.
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
