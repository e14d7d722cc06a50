"""What a process states when its part of a run has ended."""

from collections import Counter
from dataclasses import dataclass

from scorer.archive.left_out import describe_left_out
from scorer.observe.printable import count_noun


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of a process's shards.

    Attributes:
        missing: shards of the whole run that are not committed.
        counts: sums of the commit marks' `COUNTS`.
        reasons: failed images by reason.
        left_out: what is not an image, by `LeftOut`; the part that planning left out is the whole run's.
    """

    missing: int
    counts: Counter[str]
    reasons: Counter[str]
    left_out: Counter[str]

    def describe(self, folder: str) -> list[str]:
        """Return lines: what was found, what was not scored and why, and where the files are; `folder` is the run's."""
        counts = self.counts
        lines = [
            (
                f"{count_noun(counts['images'], 'image')} with {count_noun(counts['faces'], 'face')}: "
                f"{counts['flag']:,} flagged, {counts['review']:,} to review, {counts['no_face']:,} without a face, "
                f"{counts['failed']:,} failed. Results: {folder}/results"
            )
        ]
        if counts["failed"]:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
            retry = f"; --retry-failed scores {counts['retryable']:,} of them again" if counts["retryable"] else ""
            lines.append(f"failed: {reasons}. {folder}/errors has a row for each{retry}")
        if left_out := describe_left_out(self.left_out):
            lines.append(f"not scored: {left_out}")
        if self.missing:
            lines.append(f"{count_noun(self.missing, 'shard')} of other processes not yet committed")
        else:
            lines.append(f"Report: {folder}/report.html")
        return lines
