"""MLflow: import of runs and studies, and the server. Results are never read back."""
