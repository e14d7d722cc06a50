"""`unlensed explain`: why a face got its score."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from ingest.reasons import Unscorable
from scorer.commands.command_line import DigestOption, KeyOption, local_path
from scorer.commands.terminal import Terminal
from scorer.errors import NothingToExplain, UsageError
from scorer.files import replace_file
from scorer.observe.printable import printable, printable_json
from scorer.payloads.local_file import read_image, request_file
from scorer.settings import load_settings

_PAGE, _JSON = ".html", ".json"


def explain(  # noqa: PLR0913 - one parameter per flag
    image: Annotated[Path, typer.Argument(help="The image.", metavar="IMAGE")],
    *,
    face: Annotated[
        str | None, typer.Option(help="The face_id of a result. [default: the face least like photographs]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a sheet (.html) or JSON (.json).", dir_okay=False, callback=local_path),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle to score with. [default: the starter bundle]")] = None,
    digest: DigestOption = None,
    key: KeyOption = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
) -> None:
    """Explain the score of one face: its place among photographs, the parts that count, what could change it."""
    # Engines are imported on demand.
    from scorer.explain.explain import Explainer, explain_image, state_why_unexplained  # noqa: PLC0415
    from scorer.explain.messages import ExplainedResult  # noqa: PLC0415
    from scorer.explain.sheet import render_sheet  # noqa: PLC0415
    from scorer.local_scorer import LocalScorer  # noqa: PLC0415

    _check_out(out, image)
    settings = load_settings(bundle=bundle, bundle_digest=digest, bundle_key=key, threads=threads)
    try:
        data = read_image(image.absolute().as_uri(), settings.limits.max_bytes)
    except Unscorable as failure:
        message = f"{printable(str(image))} has no score to explain: {failure.detail}"
        raise NothingToExplain(message) from failure
    with closing(LocalScorer(settings)) as scorer:
        explainer = Explainer(scorer.bundle, scorer.sandbox, scorer.embedder, settings.limits, settings.video)
        try:
            result = explain_image(explainer, scorer.locate(request_file(image), data), scorer.policy, face)
        except Unscorable as failure:
            message = f"{printable(str(image))} cannot be explained now ({failure.detail}): run it again"
            raise NothingToExplain(message) from failure
        note = scorer.policy_note
    if not isinstance(result, ExplainedResult):
        raise NothingToExplain(state_why_unexplained(result))
    terminal, explained, explanation = Terminal(stderr=out is not None), result.face, result.explanation
    if out:
        is_json = out.suffix == _JSON
        text = f"{printable_json(result.model_dump_json(indent=1))}\n" if is_json else render_sheet(result)
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, text.encode(errors="backslashreplace"))
    name = printable(result.content_id)
    terminal.say(f"{name}, face {explained.face_id}: {explained.decision}, p = {explained.p_value:.3g}")
    for sentence in (*explanation.meaning, *explanation.sentences, note, f"Written: {out}" if out else ""):
        if sentence:
            terminal.say(sentence)


def _check_out(out: Path | None, image: Path) -> None:
    """Refuse an output of another kind, and one that is the image, before anything is scored.

    Raises:
        UsageError: see above.
    """
    if out and out.suffix not in {_PAGE, _JSON}:
        message = f"--out {out} must end in {_PAGE} or {_JSON}"
        raise UsageError(message)
    if out and out.exists() and image.exists() and out.samefile(image):
        message = f"--out {out} is the image: name another file"
        raise UsageError(message)
