"""Annotations in the formats of other tools, read and written as COCO; one file a format."""
