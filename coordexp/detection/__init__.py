"""Rollouts and probes, read and scored against ground truth: matching, F1, AP. No torch."""
