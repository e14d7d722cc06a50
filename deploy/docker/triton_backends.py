"""Copy the server of the nvidia-pytriton wheel into the layout of NVIDIA's image: FOLDER/bin, /lib, /backends.

    python deploy/docker/triton_backends.py /opt/tritonserver

Run by the Python of the server's environment; triton.Dockerfile does it for its target `cpu`.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent


def lay_out(folder: Path) -> None:
    """Copy the server, its libraries and the Python backend into `folder`, and add this project's backends."""
    sys.path.insert(0, str(HERE.parent / "local"))
    from triton import lay_out_backends  # noqa: PLC0415 - found through the line above

    packages = Path(sysconfig.get_path("purelib"))
    server = packages / "pytriton" / "tritonserver"
    shutil.copytree(server / "bin", folder / "bin", dirs_exist_ok=True)
    shutil.copytree(packages / "nvidia_pytriton.libs", folder / "lib", dirs_exist_ok=True)
    lay_out_backends(server, sysconfig.get_config_var("py_version_short"), folder / "backends")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
