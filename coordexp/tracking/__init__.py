"""MLflow: import of runs and studies, and the server. Nothing reads results back from it."""
