"""Generated faces for evaluation only, found and cut exactly as photographs are."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.dali import FaceCropper
from ingest.detect import DetectorSpec, load_detector
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import PreprocessSpec


def cut_generated(folder: Path, run: Path, threads: int) -> dict[str, NDArray[np.uint8]]:
    """Return [N, S, S, 3] crops of the most confident face of each picture, by generator.

    Args:
        folder: one folder a generator.
        run: holds the detector that `prepare` put there.
        threads: for decoding.

    Raises:
        FileNotFoundError: `folder` has no folder with a face in it.
    """
    spec = PreprocessSpec()
    detector = load_detector(run, DetectorSpec(), threads)
    cropper = FaceCropper(spec, threads, 16)
    cut = {}
    for generator in sorted(path for path in folder.iterdir() if path.is_dir()):
        faces = []
        for path in sorted(generator.iterdir()):
            data = path.read_bytes()
            info = probe_image(data)
            found = detector.detect(data, info)
            face = EncodedFace.around(data, info, found[0].box, spec) if found else None
            if face is not None:
                faces.append(face)
        crops = [crop for crop in cropper.crop(faces) if not isinstance(crop, Unscorable)]
        if crops:
            cut[generator.name] = np.stack(crops)
    if not cut:
        message = f"no face was found under {folder}: it must hold one folder of pictures a generator"
        raise FileNotFoundError(message)
    return cut
