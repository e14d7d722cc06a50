# The service, archive scans and all other `unlensed` commands. Two targets, built from the root of the checkout:
#
#   docker build -f deploy/docker/scorer.Dockerfile --target cpu -t unlensed-scorer:cpu .
#   docker build -f deploy/docker/scorer.Dockerfile --target gpu -t unlensed-scorer:gpu \
#     --build-arg TENSORRT_DIGEST=sha256:... .
#
# No version is resolved here: each package is a wheel whose SHA-256 is in deploy/docker/requirements. The bundle is
# mounted at /bundle. The root may be read-only; only /tmp is written.

# Append the digest (python:3.12-slim-bookworm@sha256:...) for reproducible images.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
# NVIDIA's container with TensorRT, of the same month as Triton's: a plan runs only in the version that built it. Prefix
# the host of NVIDIA's catalogue (NGC).
ARG TENSORRT_IMAGE=nvidia/tensorrt:26.06-py3
# `docker buildx imagetools inspect IMAGE` prints it. No image has the default digest, so a build without one fails.
ARG TENSORRT_DIGEST=sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY deploy/docker/requirements/build.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement build.txt
COPY pyproject.toml README.md LICENSE ./
COPY ingest ingest
COPY scorer scorer
COPY training training
COPY model_repository model_repository
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel .

FROM ${PYTHON_IMAGE} AS cpu-packages
COPY deploy/docker/requirements/scorer-cpu.txt /requirements.txt
RUN python -m venv --without-pip /opt/unlensed \
 && python -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --require-hashes \
      --requirement /requirements.txt
COPY --from=wheel /wheel /wheel
RUN python -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl

FROM ${PYTHON_IMAGE} AS cpu
COPY --from=cpu-packages /opt/unlensed /opt/unlensed
# Probes cannot reach a container's loopback, so the service listens on all addresses.
ENV PATH=/opt/unlensed/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNLENSED_BUNDLE=/bundle \
    UNLENSED_HEALTH__HOST=0.0.0.0
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000 8080
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["unlensed"]
CMD ["serve"]

# TensorRT's Python package is in the base image, so the environment includes the system's packages after its own.
FROM ${TENSORRT_IMAGE}@${TENSORRT_DIGEST} AS gpu
COPY deploy/docker/requirements/scorer-cpu.txt deploy/docker/requirements/scorer-gpu.txt /tmp/requirements/
RUN python3 -m venv --without-pip --system-site-packages /opt/unlensed \
 && python3 -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --ignore-installed \
      --require-hashes --requirement /tmp/requirements/scorer-gpu.txt \
 && rm -r /tmp/requirements
COPY --from=wheel /wheel /opt/wheel
RUN python3 -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --no-index /opt/wheel/*.whl
ENV PATH=/opt/unlensed/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNLENSED_BUNDLE=/bundle \
    UNLENSED_HEALTH__HOST=0.0.0.0
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000 8080
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["unlensed"]
CMD ["serve"]
