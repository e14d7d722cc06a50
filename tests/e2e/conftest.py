"""A real S3 server on the loopback."""

from tests.scorer.s3 import credentials, moto

__all__ = ["credentials", "moto"]
