"""Annotations of other tools to COCO: a reader for each format."""
