"""The typed configuration: its schema, how Hydra composes it, and what is refused."""
