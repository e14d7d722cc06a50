"""The end of a run: when every shard is committed, whoever comes last says so. Two may; it is the same both times."""

from collections import Counter
from dataclasses import dataclass

from scorer.archive.left_out import describe_left_out


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What became of a process's shards.

    Attributes:
        missing: shards of the whole run that are not committed.
        counts: as `Mark` has them.
        reasons: failed images by reason.
        left_out: what was given and is no image, by `LeftOut`; what planning left out is the whole run's.
    """

    missing: int
    counts: Counter[str]
    reasons: Counter[str]
    left_out: Counter[str]

    def describe(self, folder: str) -> list[str]:
        """Return in lines what was found, what was not scored and why, and where to look; `folder` is the run's."""
        counts = self.counts
        images, faces = _count(counts["images"], "image"), _count(counts["faces"], "face")
        lines = [
            (
                f"{images} with {faces}: {counts['flag']} flagged, "
                f"{counts['review']} to review, {counts['no_face']} without a face, {counts['failed']} failed. "
                f"Results: {folder}/results"
            )
        ]
        if counts["failed"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
            again = f"; --retry-failed tries {counts['retryable']} of them again" if counts["retryable"] else ""
            lines.append(f"failed: {reasons}. A row each is in {folder}/errors{again}")
        if left_out := describe_left_out(self.left_out):
            lines.append(f"not scored: {left_out}")
        if self.missing:
            lines.append(f"shards of other processes that are not committed yet: {self.missing}")
        else:
            lines.append(f"Report: {folder}/report.html")
        return lines


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' if number != 1 else ''}"
