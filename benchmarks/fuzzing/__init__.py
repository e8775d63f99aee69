"""Hostile input for every reader of a file or name that a user or another program hands over."""
