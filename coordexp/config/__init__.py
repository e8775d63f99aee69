"""The typed configuration: schema and limits, composition by Hydra, digests that identify runs."""
