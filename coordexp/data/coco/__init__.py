"""COCO and LVIS annotations to records."""
