from coordexp.metrics import *  # noqa: F403
from coordexp.metrics import METRICS, log_key, metric, metric_values  # noqa
