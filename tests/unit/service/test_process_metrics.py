from __future__ import annotations

import resource

from egress_router.metrics import Registry
from egress_router.service import process_metrics


def test_without_a_free_descriptor_the_last_figures_stay_and_others_are_told() -> None:
    registry = Registry()
    process_metrics.register(registry)
    before = registry.snapshot()["process_resident_memory_bytes"].numbers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        snapshot = registry.snapshot()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert snapshot["process_resident_memory_bytes"].numbers == before
    assert snapshot["process_cpu_seconds_total"].numbers[()] > 0
