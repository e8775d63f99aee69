"""The typed configuration: schema, composition by Hydra, limits, digests."""
