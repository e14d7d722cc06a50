"""Which landmark network a folder holds, opened."""

from pathlib import Path

from training.data.landmarks import FACE_ALIGNMENT, Landmarker


def open_landmarker(choice: str) -> Landmarker:
    """Return the landmarker that `--landmarks` chose: `face-alignment`, `face-alignment:DIR`, or the net's folder.

    Raises:
        FileNotFoundError: the weights are not where they must be; nothing is ever downloaded.
        ModuleNotFoundError: face-alignment is chosen and not installed.
        ValueError: the weights are not the chosen network's.
    """
    name, _, folder = choice.partition(":")
    if name == FACE_ALIGNMENT:
        from training.data.fan_landmarks import FanLandmarker  # noqa: PLC0415 - the package is optional

        return FanLandmarker.load(Path(folder) if folder else None)
    from training.data.landmark_net import FaceApiLandmarker, load_landmark_net  # noqa: PLC0415 - torch is slow to import

    return FaceApiLandmarker(load_landmark_net(Path(choice)))
