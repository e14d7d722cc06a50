# `unlensed-train`: photographs to a bundle, on CPUs or GPUs (PyTorch's wheels contain CUDA). From the checkout's root:
#
#   docker build -f deploy/docker/training.Dockerfile -t unlensed-training .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" unlensed-training prepare run ...
#
# Packages as in scorer.Dockerfile: wheels whose SHA-256 is in deploy/docker/requirements.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

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

FROM ${PYTHON_IMAGE} AS packages
COPY deploy/docker/requirements/training.txt /requirements.txt
RUN python -m venv --without-pip /opt/unlensed \
 && python -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --require-hashes \
      --requirement /requirements.txt
COPY --from=wheel /wheel /wheel
RUN python -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl

FROM ${PYTHON_IMAGE} AS training
COPY --from=packages /opt/unlensed /opt/unlensed
# Matplotlib, Numba and PyTorch keep caches below HOME.
ENV PATH=/opt/unlensed/bin:$PATH \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /work
USER 65532:65532
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["unlensed-train"]
CMD ["--help"]
