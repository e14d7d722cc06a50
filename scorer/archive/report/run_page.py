"""`report.html` of a run: the summary as one page that works offline, with pictures of the least likely faces."""

from collections.abc import Callable
from pathlib import Path

from scorer.archive.folder import publish
from scorer.archive.left_out import describe_left_out
from scorer.archive.report.chart import WIDTHS, draw_chart
from scorer.archive.report.figures import FigureColumn, Summary
from scorer.archive.report.gallery import FaceImageReader, cut_pictures
from scorer.archive.report.page import render_page, show_count, show_interval, show_percent
from scorer.archive.report.summary import summarise
from scorer.meaning import explain_flag, explain_pass, state_flagged_share

_ROWS: list[tuple[str, Callable[[FigureColumn], int]]] = [
    ("images", lambda column: column.images),
    ("images without a face", lambda column: column.no_face),
    ("images with faces of which none could be scored", lambda column: column.unscored),
    ("images flagged", lambda column: column.image_decisions["flag"]),
    ("images to review", lambda column: column.image_decisions["review"]),
    ("images passed", lambda column: column.image_decisions["pass"]),
    ("faces", lambda column: column.faces),
    ("faces scored", lambda column: column.scored_faces),
    ("faces flagged", lambda column: column.flagged.count),
]


def state_subject(summary: Summary) -> str:
    """Return how many images and faces the figures are based on."""
    main, apart, clips = summary.main, summary.apart, summary.clips
    tracks = f"; {show_count(clips.scored_tracks)} tracks in {show_count(clips.clips)} clips" if clips.clips else ""
    return (
        f"Looked at: {show_count(summary.images)} images with {show_count(main.faces + apart.faces + clips.tracks)} "
        f"faces. Scored: {show_count(main.scored_faces)} faces in images that are not resampled, and "
        f"{show_count(apart.scored_faces)} in resampled images{tracks}."
    )


def state_verdict(summary: Summary) -> str:
    """Return in a few sentences how many faces are flagged, and how that compares with the policy's promise."""
    share = summary.main.flagged
    if share.value is None or share.low is None or share.high is None:
        return "No face in an image that is not resampled was scored, so the policy's promise does not apply here."
    found = (
        f"Of {show_count(share.of)} scored faces in images that are not resampled, {show_count(share.count)} are "
        f"flagged: {show_percent(share.value)} ({show_interval(share)}). The policy promises at most "
        f"{show_percent(summary.promised_flag_share)} on photographs like those of its calibration."
    )
    if share.low > summary.promised_flag_share:
        return (
            f"{found} That is more than chance explains: the archive contains faces unlike the photographs this bundle "
            "knows, or its photographs differ from those of the calibration. Compare the shares by source and camera."
        )
    return (
        f"{found} Photographs alone can give that, and it is no evidence that the archive contains no generated face. "
        f"{state_flagged_share(summary.evaluation, summary.promised_flag_share)}"
    )


def list_lines(summary: Summary) -> tuple[str, str, str, str]:
    """Return the first sentences of a report, on the page and in a terminal; they never state that all is well."""
    return (
        state_subject(summary),
        explain_pass(summary.evaluation, summary.promised_review_share),
        state_verdict(summary),
        explain_flag(summary.evaluation, summary.promised_flag_share),
    )


def render_report(summary: Summary, read_face_image: FaceImageReader) -> str:
    """Return the page; `read_face_image` returns the bytes of the images in the gallery."""
    return render_page(
        "report.html",
        summary=summary,
        lines=list_lines(summary),
        rows=_ROWS,
        left_out=describe_left_out(summary.left_out),
        charts=[draw_chart(summary.histogram, kind) for kind in WIDTHS],
        main_pictures=cut_pictures(summary.main.least_likely, read_face_image),
        apart_pictures=cut_pictures(summary.apart.least_likely, read_face_image),
    )


def write_report(folder: Path, read_face_image: FaceImageReader) -> Summary:
    """Write `summary.json` and `report.html` of the run in `folder`; a second call writes the same bytes.

    Raises:
        UsageError: `folder` is not a run.
        RunBroken: its marks and files do not agree.
        OSError: the folder cannot be written.
    """
    summary = summarise(folder)
    publish_text(folder / "summary.json", summary.model_dump_json(indent=1) + "\n")
    publish_text(folder / "report.html", render_report(summary, read_face_image))
    return summary


def publish_text(path: Path, text: str) -> None:
    """Publish a text file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    content = text.encode(errors="backslashreplace")  # half of a surrogate pair in a name is not valid UTF-8

    def verify(partial: Path) -> None:
        if partial.read_bytes() != content:
            message = f"{path} does not contain what was written to it"
            raise OSError(message)

    publish(path, lambda file: file.write(content), verify)
