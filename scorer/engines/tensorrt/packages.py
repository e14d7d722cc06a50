"""TensorRT's packages: the table of their versions, and whether one can be imported here."""

import importlib
from types import ModuleType

# A plan runs only in the TensorRT that built it. A test compares images, extras and constraints with these.
CONTAINERS = "26.06"  # the month of NVIDIA's containers: TensorRT, and Triton that serves its plans
TENSORRT = "11.0"  # in these containers
TORCH_TENSORRT = "2.13"  # requires that TensorRT, and the PyTorch of its own number
TENSORRT_RTX = "1.7.1.116"  # builds without a GPU


def find_package(*names: str) -> tuple[ModuleType | None, str]:
    """Return the first of `names` that can be imported and an empty text, or else None and why the last one cannot."""
    obstacle = ""
    for name in names:
        try:
            return importlib.import_module(name), ""
        except Exception as error:  # noqa: BLE001 - without a library or a driver these packages raise several classes
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            why = "is not installed" if missing else f"cannot be imported ({type(error).__name__}: {error})"
            obstacle = f"{name} {why}"
    return None, obstacle
