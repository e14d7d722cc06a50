"""The annotated contact sheet of a clip: one row of faces for each track, in order of time."""

from PIL import Image, ImageDraw, ImageFont

from ingest.clips import ClipFace, ClipSettings, SampledFrame, name_animation, name_clip
from ingest.sandbox import Sandbox
from scorer.messages import Decision, FaceResult, ScoreResult, TrackResult
from scorer.tracks import UNCALIBRATED

COLUMNS, MAX_ROWS, SIDE, GAP, TEXT_PX = 8, 24, 160, 8, 14

Cell = tuple[float, float | None, ClipFace]  # time in seconds, log-likelihood, face


def draw_contact_sheet(
    data: bytes, result: ScoreResult, settings: ClipSettings, sandbox: Sandbox, colours: dict[Decision, str]
) -> Image.Image:
    """Return a row for each track, the least typical face framed, at most `MAX_ROWS` tracks with `COLUMNS` faces each.

    The clip is sampled again: the same settings give the same frames.

    Raises:
        Unscorable: the clip cannot be read.
    """
    media_type, digest = name_clip(data) or name_animation(data), result.image.sha256 or ""
    _, sample = sandbox.sample(data, digest, media_type, settings, result.policy.min_face_px)
    shown = list(zip(result.tracks, result.faces, strict=True))
    shown = sorted(shown, key=lambda pair: -pair[1].decision.rank)[:MAX_ROWS]
    height = SIDE + 3 * TEXT_PX + GAP
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, max(1, len(shown)) * height + 2 * TEXT_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=TEXT_PX)
    clip = result.clip
    if clip:
        more = f", {len(result.tracks) - len(shown)} more tracks" if len(result.tracks) > len(shown) else ""
        text = f"{clip.sampled_count} frames of {clip.duration_s:.1f} s ({clip.codec}), {result.status}{more}"
        draw.text((GAP, 4), text, fill="black", font=font)
    for number, (track, face) in enumerate(shown):
        top = 2 * TEXT_PX + number * height
        draw.text((GAP, top), describe_track(track, face), fill=colours[face.decision], font=font)
        least_s = track.least_typical.time_s if track.least_typical else None
        for column, (time_s, likelihood, cut) in enumerate(_choose_cells(result, sample.frames, track)):
            left, upper = GAP + column * (SIDE + GAP), top + TEXT_PX + 4
            sheet.paste(
                Image.fromarray(sandbox.show(cut.crop.data, cut.crop.info, cut.crop.window, SIDE)), (left, upper)
            )
            if time_s == least_s:
                corners = (left - 3, upper - 3, left + SIDE + 2, upper + SIDE + 2)
                draw.rectangle(corners, outline=colours[face.decision], width=3)
            label = f"{time_s:.2f} s" + ("" if likelihood is None else f"  {likelihood:.0f}")
            draw.text((left, upper + SIDE), label, fill="black", font=font)
    return sheet


def describe_track(track: TrackResult, face: FaceResult) -> str:
    """Return a track in one line."""
    uncalibrated = " (not calibrated for video)" if UNCALIBRATED.reason in face.reason_codes else ""
    p_value = "not scored" if face.p_value is None else f"p = {face.p_value:.3f}{uncalibrated}"
    seen = f"face {track.face_id}, {track.start_s:.1f} to {track.end_s:.1f} s, {track.frame_count} frames"
    return f"{seen}: {p_value}, {face.decision}"


def _choose_cells(result: ScoreResult, frames: tuple[SampledFrame, ...], track: TrackResult) -> list[Cell]:
    """Return at most `COLUMNS` faces of a track, spread over its time, the least typical one among them."""
    cells = [
        (stated.time_s, face.log_likelihood, cut)
        for stated, frame in zip(result.frames, frames, strict=True)
        for face in stated.faces
        if face.face_id == track.face_id
        for cut in frame.faces
        if cut.box.as_tuple() == face.box
    ]
    step = -(-len(cells) // COLUMNS) or 1
    chosen = cells[::step]
    least_s = track.least_typical.time_s if track.least_typical else None
    least = [cell for cell in cells if cell[0] == least_s]
    if least and least[0] not in chosen:
        chosen[-1] = least[0]
    return sorted(chosen, key=lambda cell: cell[0])
