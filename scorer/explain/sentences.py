"""An explanation in sentences, the same on a terminal and on a sheet."""

from collections.abc import Iterator

from ingest.reasons import Reason
from scorer.explain.messages import ChangedCopy, ExplainedResult, TagRank
from scorer.messages import CalibratedBy, FaceResult, ScoreResult
from scorer.observe.printable import count_noun

CHANGES = {
    "jpeg_90": "Saved again as a JPEG of quality 90",
    "resize_95": "Reduced to 95 % of its sides and saved without loss",
}
NO_HEADS = "This bundle has no heads that rank EXIF tags, so the tags in the file were compared with nothing."
TAGS = {
    "f_number": ("Aperture", "f/{}"),
    "exposure_time_s": ("Exposure time", "{} s"),
    "focal_length_mm": ("Focal length", "{} mm"),
    "iso": ("ISO speed", "{}"),
}
_LONG_S = 0.4  # cameras show a shorter exposure time as a fraction
NO_COPIES = "The answer after other processing was not measured: the face has more than 60 megapixels."


def list_sentences(explained: ExplainedResult) -> list[str]:
    """Return what decided, and how far it can be relied on, a sentence or two for each part."""
    return [
        state_position(explained),
        state_comparison(explained),
        state_processing(explained),
        state_occlusion(explained),
        state_clusters(explained),
        *state_tags(explained),
        *state_copies(explained),
        state_cost(explained),
    ]


def state_image(result: ScoreResult, face: FaceResult) -> Iterator[str]:
    """Yield why the decision on the image is not that on the face, if it is not."""
    if result.decision is not face.decision:
        because = result.detail if Reason.STATED_GENERATED in result.reason_codes else None
        yield f"The decision on the image is {result.decision}, not for this face: {because or 'another face decided'}."


def state_position(explained: ExplainedResult) -> str:
    """Return the log-likelihood and its rank among the photographs."""
    face, position = explained.face, explained.explanation.calibration
    return (
        f"The log-likelihood is {face.log_likelihood:.1f} nats. {position.at_most:,} of "
        f"{count_noun(position.faces, 'held-out photographed face')} are at most this likely, so p = "
        f"{position.p_value:.3g}; half of them lie between {position.quarter_nats:.1f} and "
        f"{position.three_quarters_nats:.1f} nats."
    )


def state_comparison(explained: ExplainedResult) -> str:
    """Return which photographs the face was compared with."""
    face, by = explained.face, explained.explanation.calibration.calibrated_by
    stratum = f"The face belongs to the stratum {face.stratum} ({face.quality['face_px']:g} px)"
    if by is CalibratedBy.STRATUM:
        return f"{stratum}, and is compared with photographs of that stratum."
    return f"{stratum}. This bundle has too few photographs of it, so the face is compared with all."


def state_processing(explained: ExplainedResult) -> str:
    """Return the marks of resampling, and whether the image is stored as screenshots are."""
    image = explained.image
    quality = "" if image.jpeg_quality is None else f" Its JPEG quality is {image.jpeg_quality}."
    screenshot = (
        " It is a PNG that states no camera, as a screenshot does: a screenshot changes what a camera left."
        if explained.explanation.screenshot_like
        else ""
    )
    if not image.resampled:
        return f"The image has no mark of resampling.{quality}{screenshot}"
    marks = ", ".join(image.resampled)
    return (
        f"The image has marks of resampling ({marks}), which erases what a camera left: the promised rates hold for it "
        f"only if it is compared with photographs of its stratum.{quality}{screenshot}"
    )


def state_occlusion(explained: ExplainedResult) -> str:
    """Return the extremes of the occlusion map, and how large they are."""
    rows = explained.explanation.occlusion.changes_nats
    changes = [(change, row, column) for row, each in enumerate(rows, 1) for column, change in enumerate(each, 1)]
    (low, low_row, low_column), (high, high_row, high_column) = min(changes), max(changes)
    position = explained.explanation.calibration
    return (
        f"Covering one square of the crop changes the log-likelihood by {low:+.1f} nats (row {low_row}, column "
        f"{low_column}) to {high:+.1f} nats (row {high_row}, column {high_column}); half of the photographs span "
        f"{position.three_quarters_nats - position.quarter_nats:.1f} nats. It changes the p-value to "
        f"{min(map(min, explained.explanation.occlusion.p_values)):.3g} at least and "
        f"{max(map(max, explained.explanation.occlusion.p_values)):.3g} at most."
    )


def state_clusters(explained: ExplainedResult) -> str:
    """Return the cluster of photographs to which the face belongs most."""
    clusters = explained.explanation.clusters
    if clusters.components == 1:
        return (
            "This bundle describes all photographs as one cluster. The face's squared distance from its centre is "
            f"{clusters.nearest.squared_distance:.2f} times that of an average photograph."
        )
    probable, nearest = clusters.most_probable, clusters.nearest
    share, probability = 100 * probable.share, 100 * probable.probability
    text = (
        f"Of {clusters.components} clusters of photographs, number {probable.number} ({share:.0f} % of them) explains "
        f"the face with a probability of {probability:.0f} %. The face's squared distance from its centre is "
        f"{probable.squared_distance:.2f} times that of the cluster's average photograph"
    )
    if nearest.number == probable.number:
        return f"{text}; no other centre is nearer."
    return f"{text}; the centre of number {nearest.number} is nearer, with {nearest.squared_distance:.2f}."


def state_tags(explained: ExplainedResult) -> Iterator[str]:
    """Yield for each EXIF tag what the file states, what the face predicts, and whether they contradict each other."""
    tags = explained.explanation.camera_tags
    if tags is None:
        yield NO_HEADS
    for each in tags or ():
        name, form = TAGS[each.tag]
        short = each.tag == "exposure_time_s" and each.stated and each.stated < _LONG_S
        value = form.format(f"1/{1 / each.stated:.0f}" if short and each.stated else f"{each.stated or 0:g}")
        own = "" if each.stated_rank is None else f", {state_rank(each.stated_rank)}"
        yield f"{name} in the file: {f'{value}{own}' if each.stated else 'not stated'}. {state_prediction(each)}."


def state_rank(rank: float) -> str:
    """Return a rank among the calibration photographs."""
    return f"above {100 * rank:.0f} % of photographs"


def state_prediction(tag: TagRank) -> str:
    """Return the rank that the face predicts, how good such predictions are, and whether it contradicts the file."""
    if not tag.photographs:
        return "Predicted from the face: not measured, not used"
    share, low, high = (100 * each for each in tag.skill)
    skill = (
        f"{share:.0f} % of pairs of {tag.photographs:,} photographs are ordered rightly ({low:.0f} to {high:.0f} %; "
        "chance: 50 %)"
    )
    if tag.predicted_rank is None:
        return f"Predicted from the face: no better than chance: not used; {skill}"
    predicted = f"Predicted from the face: {state_rank(tag.predicted_rank)}; {skill}"
    if tag.limit is None:
        return f"{predicted}. Too few photographs show what would be a contradiction"
    if tag.contradicts is None:
        return predicted
    verdict = "They contradict each other" if tag.contradicts else "No contradiction"
    return f"{predicted}. {verdict}: at most 1 % of photographs differ by more than {100 * tag.limit:.0f} points"


def state_copies(explained: ExplainedResult) -> Iterator[str]:
    """Yield what the answer would be after each change of the image."""
    if not explained.explanation.copies:
        yield NO_COPIES
    for copy in explained.explanation.copies:
        yield f"{CHANGES[copy.change]}: {state_copy(copy)}."


def state_copy(copy: ChangedCopy) -> str:
    """Return the answer to a changed copy and whether its decision differs."""
    if copy.p_value is None:
        return f"no score, {copy.detail or 'no reason given'}"
    verdict = "the decision would change" if copy.changes_decision else "the decision stays"
    return f"p = {copy.p_value:.3g}, {copy.decision}; {verdict}"


def state_cost(explained: ExplainedResult) -> str:
    """Return what the explanation cost."""
    cost = explained.explanation.cost
    passes = count_noun(cost.engine_passes, "pass", "passes")
    scored = sum(face.p_value is not None for face in explained.faces)
    return f"This took {passes} of the network and {cost.seconds:.1f} s; the score alone takes {scored}."
