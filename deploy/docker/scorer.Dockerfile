# The service, archive scans and every other `unlensed` command. Two targets, built from the checkout's root:
#
#   docker build -f deploy/docker/scorer.Dockerfile --target cpu -t unlensed-scorer:cpu .
#   docker build -f deploy/docker/scorer.Dockerfile --target gpu -t unlensed-scorer:gpu \
#     --build-arg TENSORRT_DIGEST=sha256:... .
#
# Nothing is resolved: each package is a wheel whose SHA-256 stands in deploy/docker/requirements. The bundle that serves
# is mounted at /bundle. The root may be read-only; /tmp is the only place that is ever written.

# Give it with its digest (python:3.12-slim-bookworm@sha256:...) where images must be the same tomorrow.
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
# NVIDIA's container with TensorRT, of the same month as Triton's: a plan runs in the version that built it. Give it with
# the host of NVIDIA's catalogue (NGC) in front.
ARG TENSORRT_IMAGE=nvidia/tensorrt:26.06-py3
# `docker buildx imagetools inspect IMAGE` prints it. The default is no image's, so that nobody builds without one.
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
# A container's loopback is reached by no probe, hence the host.
ENV PATH=/opt/unlensed/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    UNLENSED_BUNDLE=/bundle \
    UNLENSED_HEALTH__HOST=0.0.0.0
WORKDIR /tmp
USER 65532:65532
EXPOSE 8080
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["unlensed"]
CMD ["serve"]

# TensorRT's Python package is the base's, so the environment sees the base's packages behind its own.
FROM ${TENSORRT_IMAGE}@${TENSORRT_DIGEST} AS gpu
COPY deploy/docker/requirements/scorer-gpu.txt /tmp/requirements.txt
RUN python3 -m venv --without-pip --system-site-packages /opt/unlensed \
 && python3 -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --ignore-installed \
      --require-hashes --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt
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
EXPOSE 8080
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["unlensed"]
CMD ["serve"]
