"""Output on a terminal: `Terminal` has no markup and passes every text through `printable`."""

import io
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from scorer.observe.printable import printable


def print_traceback(error: BaseException) -> None:
    """Print the traceback of a defect on standard error, with escapes for its quoted values."""
    for line in "".join(traceback.format_exception(error)).rstrip("\n").split("\n"):
        sys.stderr.write(printable(line) + "\n")


def tolerate_encoding() -> None:
    """Escape characters that the encoding of standard output or standard error lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Terminal(Console):
    """A Rich console on which every text is data: no markup, no emoji codes, no highlighting, no control characters.

    A `Text` of the caller must be made of `printable` text: Rich measures its width before this console escapes it.

    Args:
        stderr: write to standard error.
        file: write here instead.
        options: see `rich.console.Console`.
    """

    def __init__(self, *, stderr: bool = False, file: Any = None, **options: Any) -> None:  # noqa: ANN401 - Rich's
        super().__init__(stderr=stderr, file=file, markup=False, emoji=False, highlight=False, **options)

    def say(self, sentence: str, style: str = "") -> None:
        """Print a sentence as one line; the terminal wraps it, so that a path in it can be copied."""
        self.print(sentence, style=style, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - Rich's
        """See `Console`: cells, titles and sentences pass this method before they are measured."""
        return super().render_str(self._plain(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console`: escapes what a `Text` of the caller still contains."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)

    def _plain(self, text: str) -> str:
        """Return `text` in characters that print in this console's encoding, so that its width is known."""
        return printable(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
