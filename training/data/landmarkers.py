"""Open the landmark network that `--landmarks` names."""

from pathlib import Path

from training.data.landmarks import FACE_ALIGNMENT, Landmarker


def open_landmarker(choice: str) -> Landmarker:
    """Return the landmarker of `choice`: `face-alignment`, `face-alignment:DIR`, or the folder of face-api's network.

    Raises:
        FileNotFoundError: the weights are missing; nothing is ever downloaded.
        ModuleNotFoundError: face-alignment is chosen but not installed.
        ValueError: the weights belong to another network.
    """
    name, _, folder = choice.partition(":")
    if name == FACE_ALIGNMENT:
        from training.data.fan_landmarks import FanLandmarker  # noqa: PLC0415 - the package is optional

        return FanLandmarker.load(Path(folder) if folder else None)
    from training.data.landmark_net import FaceApiLandmarker, load_landmark_net  # noqa: PLC0415 - torch is slow to import

    return FaceApiLandmarker(load_landmark_net(Path(choice)))
