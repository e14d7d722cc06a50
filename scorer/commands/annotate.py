"""One annotated picture per photograph: upright, with every face's box, p-value and decision."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ingest.clips import DEFAULT_CLIP_SETTINGS, ClipSettings
from ingest.probe import probe_image
from ingest.reasons import Unscorable
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.manifest import Evaluation
from scorer.commands.contact_sheet import draw_contact_sheet
from scorer.meaning import explain_decisions
from scorer.messages import Decision, FaceResult, ScoreResult
from scorer.observe.printable import printable

# Okabe-Ito: distinguishable with any kind of colour vision.
COLOURS = {Decision.PASS: "#0072B2", Decision.REVIEW: "#E69F00", Decision.FLAG: "#D55E00"}
MAX_SIDE = 1600
CAPTION_PX, MIN_CAPTION_WIDTH = 13, 400
LIST_FILE = ".unlensed-pictures.jsonl"  # the pictures that a run wrote: a name and a digest per line
_PARTIAL = ".unlensed-picture.partial"
_MAX_NUMBER_BYTES = 8  # of the number that makes a name unique


class PictureFolder:
    """A folder of annotated pictures. Those of an earlier run are removed; every other file stays unchanged.

    Args:
        folder: is created if it does not exist.
        evaluation: of the bundle that scores, for the captions.
        sandbox: decodes the images.
        warn: is called for the first picture that cannot be written; the run continues.
        clips: how clips were sampled; each has a contact sheet as its picture.

    Attributes:
        written: the number of pictures that this run wrote.
        failed: the number that it could not write.

    Raises:
        OSError: the folder cannot be created.
    """

    def __init__(
        self,
        folder: Path,
        evaluation: Evaluation | None,
        sandbox: Sandbox,
        warn: Callable[[str], None],
        clips: ClipSettings = DEFAULT_CLIP_SETTINGS,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._evaluation, self._sandbox, self._warn = folder, evaluation, sandbox, warn
        self._clips = clips
        self.written = self.failed = 0
        with suppress(OSError):  # a folder that cannot be written is reported with the first picture
            self._clear()

    def add(self, result: ScoreResult, read: Callable[[], bytes]) -> None:
        """Write the picture of a result, whose image `read` returns; only the first failure is a warning."""
        try:
            if result.clip:
                picture = draw_contact_sheet(read(), result, self._clips, self._sandbox, COLOURS)
            else:
                picture = draw_picture(read(), result, self._evaluation, self._sandbox)
            self._write(encode_picture(picture), result)
        except (Unscorable, OSError, ValueError, MemoryError) as error:
            if not self.failed:
                self._warn(f"the picture of {result.content_id} is not written: {error}")
            self.failed += 1
        else:
            self.written += 1

    def _clear(self) -> None:
        """Remove the listed pictures that have not changed since."""
        listed = self.folder / LIST_FILE
        if not listed.is_file():
            return
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                entry: dict[str, Any] = json.loads(line)
                path = self._locate(str(entry["name"]))
                ours = path.parent == self.folder and path.is_file() and not path.is_symlink()
                if ours and hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]:
                    path.unlink()
        listed.unlink()

    def _write(self, data: bytes, result: ScoreResult) -> None:
        name = self._choose_name(result)
        partial = self.folder / _PARTIAL
        try:
            partial.write_bytes(data)
            with (self.folder / LIST_FILE).open("a", encoding="utf-8") as listed:
                listed.write(json.dumps({"name": name, "sha256": hashlib.sha256(data).hexdigest()}) + "\n")
            partial.rename(self._locate(name))
        finally:
            partial.unlink(missing_ok=True)

    def _choose_name(self, result: ScoreResult) -> str:
        """Return a name that the file system allows and that no file has."""
        digest = (result.image.sha256 or "")[:8]
        room = os.pathconf(self.folder, "PC_NAME_MAX") - len(f"-{digest}.jpg") - _MAX_NUMBER_BYTES
        stem = printable(Path(result.content_id).stem).encode()[:room].decode(errors="ignore")
        name, number = f"{stem}-{digest}.jpg", 1
        while os.path.lexists(self._locate(name)):
            number += 1
            name = f"{stem}-{digest}-{number}.jpg"
        return name

    def _locate(self, name: str) -> Path:
        """Return the path of a picture, whose name is UTF-8 in every locale."""
        return self.folder / os.fsdecode(name.encode(errors="surrogateescape"))


def encode_picture(picture: Image.Image) -> bytes:
    """Return a picture as JPEG."""
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def draw_picture(data: bytes, result: ScoreResult, evaluation: Evaluation | None, sandbox: Sandbox) -> Image.Image:
    """Return the annotated picture of `result`, with a caption below that states what its decisions mean.

    Args:
        data: the encoded image.
        result: of this image.
        evaluation: of the bundle that scored, for the caption.
        sandbox: decodes the image.

    Raises:
        Unscorable: the image cannot be decoded.
    """
    info = probe_image(data)
    scale = min(1.0, MAX_SIDE / max(info.width, info.height))
    picture = Image.fromarray(sandbox.show(data, info, Window(0, 0, info.width, info.height), MAX_SIDE))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(14, min(picture.size) / 32))
    line = max(2, round(min(picture.size) / 200))
    for face in result.faces:
        _draw_face(draw, face, scale, line, font)
    if not result.faces:
        _label(draw, (line, line), f"{result.status}: {', '.join(result.reason_codes)}", "#555555", font)
    return _add_caption(picture, explain_decisions(evaluation, result.policy)) if result.faces else picture


def _add_caption(picture: Image.Image, sentences: Sequence[str]) -> Image.Image:
    """Return the picture with `sentences` below, at least `MIN_CAPTION_WIDTH` wide."""
    width = max(picture.width, MIN_CAPTION_WIDTH)
    size = max(CAPTION_PX, picture.width / 50)
    font = ImageFont.load_default(size=size)
    text = "\n".join(line for sentence in sentences for line in _wrap(sentence, font, width - 2 * size))
    height = ImageDraw.Draw(picture).multiline_textbbox((0, 0), text, font=font, spacing=size / 3)[3]
    page = Image.new("RGB", (width, picture.height + round(height + 2 * size)), "white")
    page.paste(picture)
    ImageDraw.Draw(page).multiline_text((size, picture.height + size), text, fill="black", font=font, spacing=size / 3)
    return page


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> Iterator[str]:
    """Yield lines of whole words that are at most `width` pixels wide."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    yield line


def _draw_face(
    draw: ImageDraw.ImageDraw,
    face: FaceResult,
    scale: float,
    line: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, width, height = (number * scale for number in face.box)
    colour = COLOURS[face.decision]
    draw.rectangle((left, top, left + width, top + height), outline=colour, width=line)
    number = "not scored" if face.p_value is None else f"p = {face.p_value:.3f}"
    _label(draw, (max(0, left), top + height), f"{number} · {face.decision}", colour, font)


def _label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 10, bottom - top + 10
    image_width, image_height = draw.im.size if draw.im else (width, height)
    x, y = min(max(0, corner[0]), image_width - width), min(max(0, corner[1]), image_height - height)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 5 - left, y + 5 - top), text, fill="white", font=font)
