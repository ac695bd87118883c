"""What every long-running process shares: supervisor, workers, reload, drain, logs, metrics."""
