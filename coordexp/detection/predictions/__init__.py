"""Predictions of other evaluators: read, checked against each other, and scored by one matcher."""
