"""TensorRT's packages: the table of their versions, and whether one can be imported here.

A plan runs only in the version of TensorRT that built it. A test compares the table with the images, the extras and the
constraints.
"""

import importlib
from types import ModuleType

CONTAINERS = "26.06"  # the monthly release of NVIDIA's containers: TensorRT, and Triton that serves its plans
TENSORRT = "11.0"  # in these containers
TORCH_TENSORRT = "2.13"  # requires that TensorRT, and the PyTorch of its own number
TENSORRT_RTX = "1.7.1.116"  # builds without a GPU, and runs where no plan is built


def find_package(*names: str) -> tuple[ModuleType | None, str]:
    """Return the first of `names` that can be imported and no obstacle, or else None and why the last one cannot.

    TensorRT's packages raise errors of several classes where a library or the driver is missing.
    """
    obstacle = ""
    for name in names:
        try:
            return importlib.import_module(name), ""
        except ModuleNotFoundError as error:
            obstacle = f"{name} is not installed" if error.name == name else f"{name} cannot be imported ({error})"
        except Exception as error:  # noqa: BLE001 - see above
            obstacle = f"{name} cannot be imported ({type(error).__name__}: {error})"
    return None, obstacle
