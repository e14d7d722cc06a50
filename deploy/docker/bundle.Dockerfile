# A bundle as an image: for Kubernetes' image volumes, or to copy from. The build context is the bundle's folder:
#
#   docker build -f deploy/docker/bundle.Dockerfile -t unlensed-bundle:2026-11-23 model_repository
FROM scratch
COPY . /
