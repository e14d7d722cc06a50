"""A replacement of kafka-topics.sh, which the local broker lacks, for deploy/compose."""

import argparse
from contextlib import suppress

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError


def main() -> None:
    """Create a topic."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--create", action="store_true", required=True)
    parser.add_argument("--if-not-exists", action="store_true", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--replication-factor", type=int, required=True)
    parser.add_argument("--config", action="append", default=[])
    asked = parser.parse_args()
    admin = KafkaAdminClient(bootstrap_servers=asked.bootstrap_server)
    topic = {
        "num_partitions": asked.partitions,
        "replication_factor": asked.replication_factor,
        "configs": dict(each.split("=", 1) for each in asked.config),
    }
    with suppress(TopicAlreadyExistsError):
        admin.create_topics({asked.topic: topic}, wait_for_metadata=True)
    admin.close()


if __name__ == "__main__":
    main()
