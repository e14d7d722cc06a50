#!/usr/bin/env bash
# `make gpu` on any machine with an NVIDIA GPU: parity and speed, part by part, into gpu-report.json and a table.
#
#   tests/gpu/run.sh [--save NAME] [--parts mixture,decode] [--out FILE]      see run.py for the rest
#   UNLENSED_DEVICE=cpu tests/gpu/run.sh                                      a rehearsal with small sizes
#
# On a machine that cannot download anything, packages are carried in folders of wheels (*.whl), archives of unpacked
# packages (*.txz, *.tar.gz) and pieces of such archives (NAME.txz.00, NAME.txz.01 ...):
#
#   CARRY="carry1 carry2" SITE=/tmp/site tests/gpu/run.sh --unpack    only unpack; pieces wait for their last one
#   CARRY="carry3" SITE=/tmp/site tests/gpu/run.sh                    unpack what is new, then run with all of it
#
# PYTHON names the interpreter that has PyTorch (python3), SITE where carried packages go (/tmp/unlensed-site).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
site=${SITE:-/tmp/unlensed-site}

for folder in ${CARRY:-}; do
  mkdir -p "$site" "$site.pieces"
  for piece in "$folder"/*.txz.[0-9][0-9]; do
    [ -e "$piece" ] && cp "$piece" "$site.pieces/"
  done
  for wheel in "$folder"/*.whl; do
    [ -e "$wheel" ] && "$python" -m zipfile --extract "$wheel" "$site"
  done
  for archive in "$folder"/*.txz "$folder"/*.tar.gz; do
    [ -e "$archive" ] && tar xf "$archive" -C "$site" --no-same-owner
  done
done
if [ -d "$site.pieces" ] && [ "${1:-}" != --unpack ]; then
  for first in "$site.pieces"/*.txz.00; do
    [ -e "$first" ] || continue
    # Without one of its pieces an archive is skipped, and the run continues.
    cat "${first%00}"[0-9][0-9] | tar xJ -C "$site" --no-same-owner || echo "$(basename "${first%.00}") is not whole: its packages are missing" >&2
  done
  rm -r "$site.pieces"
fi
[ "${1:-}" = --unpack ] && exit 0

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
[ -d "$site" ] && export PYTHONPATH="$PYTHONPATH:$site"
# Carried packages of the name nvidia.* must not hide, nor be hidden by, those of PyTorch's environment.
[ -d "$site/nvidia" ] && echo '__path__ = __import__("pkgutil").extend_path(__path__, __name__)' > "$site/nvidia/__init__.py"
# The libraries that carried packages load by name, and those beside PyTorch's own.
for libraries in "$site"/nvidia/*/lib "$site"/tensorrt_rtx_libs "$site"/tensorrt_libs; do
  [ -d "$libraries" ] && export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
[ -d "$site/java" ] && export PATH="$site/java/bin:$PATH" UNLENSED_KAFKA_JARS="$site/kafka"
cd "$root"
exec "$python" tests/gpu/run.py "$@"
