"""MLflow: import of runs and studies, and the server. Results are never read back."""

import os

# MLflow reads its settings from the environment, and the server inherits them. Those that a user
# has set for another tracking server are removed before any module imports MLflow: this database is
# a file of this project, and no setting may send a part of an import elsewhere.
IGNORED = tuple(sorted(name for name in os.environ if name.lstrip("_").startswith("MLFLOW_")))
for _name in IGNORED:
    del os.environ[_name]

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # background jobs, which nothing here uses
    # A connection for each transaction: none outlives a database that was removed or replaced.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
