"""EXIF tags as a file states them, beside the ranks that a bundle's heads predict from a face."""

import numpy as np
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES, ExifTags, read_header_tags
from scorer.bundle.bundle import Bundle
from scorer.bundle.exif_heads import NO_LIMIT, ExifHeads, rank_among, read_exif_heads
from scorer.explain.messages import TagRank
from scorer.locate import LocatedImage


def compare_tags(bundle: Bundle, image: LocatedImage, features_D: NDArray[np.float32]) -> tuple[TagRank, ...] | None:
    """Return what an image and one of its faces say of each tag; None if the bundle has no heads."""
    heads = read_exif_heads(bundle)
    if heads is None or image.info is None:
        return None
    return rank_tags(heads, features_D, read_header_tags(image.data, image.info))


def rank_tags(heads: ExifHeads, features_D: NDArray[np.float32], stated: ExifTags) -> tuple[TagRank, ...]:
    """Return what the file and the heads say of each tag. A head that is no better than chance predicts nothing."""
    # Not the product of BLAS, whose last bits depend on the CPU.
    scores = (heads.weights * features_D.astype(np.float64)).sum(axis=1)
    ranks = []
    for row, name in enumerate(TAG_NAMES):
        value, limit = getattr(stated, name), float(heads.limits[row])
        skill, low, high = heads.skill[row].tolist()
        photographs, sources = map(int, heads.counts[row])
        own = float(rank_among(np.array(value), heads.tags[row])) if value is not None and photographs else None
        predicted = float(rank_among(scores[row], heads.scores[row])) if heads.used[row] else None
        judged = own is not None and predicted is not None and limit < NO_LIMIT
        ranks.append(
            TagRank(
                tag=name,
                stated=value,
                stated_rank=own,
                predicted_rank=predicted,
                contradicts=abs((predicted or 0.0) - (own or 0.0)) > limit if judged else None,
                limit=limit if limit < NO_LIMIT else None,
                skill=skill,
                skill_low=low,
                skill_high=high,
                photographs=photographs,
                sources=sources,
            )
        )
    return tuple(ranks)
