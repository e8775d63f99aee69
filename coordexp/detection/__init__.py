"""Detections against ground truth: matching, scores, average precision."""
