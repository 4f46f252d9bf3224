"""What a container is to the supervisor: what was asked for, its record, its spec, why it ended."""
