"""A replacement of kafka-acls.sh, which the local broker lacks, for deploy/kafka."""

import argparse
import re

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType


def main() -> None:
    """Add rights."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--resource-pattern-type", choices=["literal", "prefixed"], default="literal")
    what = parser.add_mutually_exclusive_group(required=True)
    for kind in ("topic", "group", "transactional-id"):
        what.add_argument(f"--{kind}")
    asked = parser.parse_args()
    kinds = {
        ResourceType.TOPIC: asked.topic,
        ResourceType.GROUP: asked.group,
        ResourceType.TRANSACTIONAL_ID: asked.transactional_id,
    }
    ((kind, name),) = ((kind, name) for kind, name in kinds.items() if name)
    resource = ResourcePattern(kind, name, ACLResourcePatternType[asked.resource_pattern_type.upper()])
    names = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper() for operation in asked.operation]
    operations = [ACLOperation[name] for name in names]
    rights = [ACL(asked.allow_principal, "*", each, ACLPermissionType.ALLOW, resource) for each in operations]
    admin = KafkaAdminClient(bootstrap_servers=asked.bootstrap_server)
    failed = admin.create_acls(rights)["failed"]
    admin.close()
    if failed:
        parser.error(str(failed))


if __name__ == "__main__":
    main()
