"""What `scorer.score` needs of a bundle: arrays and names, no files and no engine."""

from dataclasses import dataclass

from ingest.spec import PreprocessSpec
from scorer.decide import Calibration
from scorer.mixture import StackedMixture


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """The model of a bundle.

    Attributes:
        bundle_id: the bundle's name.
        digest: SHA-256 of the bundle's manifest, which covers every file.
        preprocess: how a face is cut.
        mixture: the mixture of photographs' features, in the layout for scoring.
        calibration: the held-out photographs' log-likelihoods, together and by stratum.
    """

    bundle_id: str
    digest: str
    preprocess: PreprocessSpec
    mixture: StackedMixture
    calibration: Calibration
