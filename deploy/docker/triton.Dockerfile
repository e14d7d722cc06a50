# Triton Inference Server for the bundle that is mounted at /bundle. Two targets, built from the root of the checkout:
#
#   docker build -f deploy/docker/triton.Dockerfile --target gpu -t unlensed-triton:gpu \
#     --build-arg TRITON_DIGEST=sha256:... .
#   docker build -f deploy/docker/triton.Dockerfile --target cpu -t unlensed-triton:cpu .
#
# `gpu` is for production, with a bundle for TensorRT. The image contains no engine: a plan runs on one GPU model only, so
# `unlensed bundle build /bundle`, which is also in this image, builds it on the machine that serves.
# `cpu` serves a bundle for OpenVINO with the server of the nvidia-pytriton wheel, version 2.51. It is for development:
# 2.51 lacks the security fixes that 26.06 has, and scoring in the worker's own process is faster on a CPU.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm
# 26.06 or later: older ones have known vulnerabilities. Prefix the host of NVIDIA's catalogue (NGC).
ARG TRITON_IMAGE=nvidia/tritonserver:26.06-py3
# `docker buildx imagetools inspect IMAGE` prints it. No image has the default digest, so a build without one fails.
ARG TRITON_DIGEST=sha256:0000000000000000000000000000000000000000000000000000000000000000

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

FROM ${PYTHON_IMAGE} AS cpu
COPY deploy/docker/requirements/triton-cpu.txt /tmp/requirements.txt
RUN python -m venv --without-pip /opt/unlensed \
 && python -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --require-hashes \
      --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt
COPY --from=wheel /wheel /opt/wheel
COPY deploy/docker/triton_backends.py /opt/unlensed/deploy/docker/
COPY deploy/local/triton.py /opt/unlensed/deploy/local/
# Without dependencies: this server's Python stub works with NumPy 1.26 only, which this environment has.
RUN python -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --no-index /opt/wheel/*.whl \
 && /opt/unlensed/bin/python /opt/unlensed/deploy/docker/triton_backends.py /opt/tritonserver
# The stub runs the first python3 of the PATH.
ENV PATH=/opt/unlensed/bin:/opt/tritonserver/bin:$PATH \
    LD_LIBRARY_PATH=/usr/local/lib:/opt/tritonserver/lib \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
EXPOSE 8001 8002
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["tritonserver", "--model-repository=/bundle", "--backend-directory=/opt/tritonserver/backends", \
            "--model-control-mode=explicit", "--load-model=face_features", \
            "--grpc-restricted-protocol=model-repository:none=none", "--allow-http=false", \
            "--metrics-address=0.0.0.0"]

FROM ${TRITON_IMAGE}@${TRITON_DIGEST} AS gpu
COPY deploy/docker/requirements/scorer-cpu.txt /tmp/requirements.txt
RUN python3 -m venv --without-pip --system-site-packages /opt/unlensed \
 && python3 -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --ignore-installed \
      --require-hashes --requirement /tmp/requirements.txt \
 && rm /tmp/requirements.txt
COPY --from=wheel /wheel /opt/wheel
# Only `unlensed` is put on the PATH; the server's own programs are unchanged.
RUN python3 -m pip --python /opt/unlensed/bin/python install --no-cache-dir --no-deps --no-index /opt/wheel/*.whl \
 && ln -s /opt/unlensed/bin/unlensed /usr/local/bin/unlensed
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    UNLENSED_BUNDLE=/bundle
WORKDIR /tmp
USER 65532:65532
EXPOSE 8001 8002
LABEL org.opencontainers.image.version="0.1.0" org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["tritonserver", "--model-repository=/bundle", \
            "--model-control-mode=explicit", "--load-model=face_features", \
            "--grpc-restricted-protocol=model-repository:none=none", "--allow-http=false", \
            "--metrics-address=0.0.0.0"]
