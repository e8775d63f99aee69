"""The Stage-1 run, from the base model to a finished run directory."""
