"""One annotated picture per photograph: upright, with every face's box, p-value and decision."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ingest.reasons import Unscorable
from ingest.reference import decode_upright
from scorer.manifest import Evaluation
from scorer.meaning import explain_decisions
from scorer.messages import Decision, FaceResult, ScoreResult

# Okabe-Ito: told apart by people with any kind of colour vision.
COLOURS = {Decision.PASS: "#0072B2", Decision.REVIEW: "#E69F00", Decision.FLAG: "#D55E00"}
MAX_SIDE = 1600
CAPTION_PX, MIN_CAPTION_WIDTH = 13, 400


def draw_picture(data: bytes, result: ScoreResult, evaluation: Evaluation | None, folder: Path) -> Path | None:
    """Write the annotated picture of `result` into `folder`, above a caption that says what its decisions mean.

    Args:
        data: the encoded image.
        result: what was found in it.
        evaluation: of the bundle that scored, for the caption.
        folder: where the picture goes.

    Returns:
        The picture's path, or None when the image cannot be shown.
    """
    try:
        picture = Image.fromarray(decode_upright(data))
    except Unscorable:
        return None
    scale = min(1.0, MAX_SIDE / max(picture.size))
    if scale < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), reducing_gap=2.0)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(14, min(picture.size) / 32))
    line = max(2, round(min(picture.size) / 200))
    for face in result.faces:
        _draw_face(draw, face, scale, line, font)
    if not result.faces:
        _label(draw, (line, line), f"{result.status}: {', '.join(result.reason_codes)}", "#555555", font)
    target = folder / f"{Path(result.content_id).stem[:80]}-{(result.image.sha256 or '')[:8]}.jpg"
    if result.faces:
        picture = _add_caption(picture, explain_decisions(evaluation, result.policy))
    picture.save(target, quality=90)
    return target


def _add_caption(picture: Image.Image, sentences: Sequence[str]) -> Image.Image:
    """Return the picture above `sentences`, on paper that is wide enough to read them."""
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
