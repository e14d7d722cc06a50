"""EXIF tags as a file states them, beside the ranks that a bundle's heads predict from a face."""

import numpy as np
from numpy.typing import NDArray

from ingest.exif import TAG_NAMES, read_header_tags
from scorer.bundle.bundle import Bundle
from scorer.bundle.exif_heads import NO_LIMIT, rank_among, read_exif_heads
from scorer.explain.messages import TagRank
from scorer.locate import LocatedImage

CHANCE = 0.5


def compare_tags(bundle: Bundle, image: LocatedImage, features_D: NDArray[np.float32]) -> tuple[TagRank, ...] | None:
    """Return what an image and one of its faces say of each tag; None if the bundle has no heads."""
    heads = read_exif_heads(bundle)
    if heads is None or image.info is None:
        return None
    stated, ranks = read_header_tags(image.data, image.info), []
    scores = (heads.weights * features_D.astype(np.float64)).sum(axis=1)  # BLAS's last bits depend on the CPU
    for row, name in enumerate(TAG_NAMES):
        value, limit, skill = getattr(stated, name), float(heads.limits[row]), heads.skill[row].tolist()
        own = float(rank_among(np.array(value), heads.tags[row])) if value and heads.photographs[row] else None
        predicted = float(rank_among(scores[row], heads.scores[row])) if skill[1] > CHANCE else None
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
                photographs=int(heads.photographs[row]),
            )
        )
    return tuple(ranks)
