"""What tests of object stores share."""

SECRET = "hunter2"  # noqa: S105 - looked for in messages
