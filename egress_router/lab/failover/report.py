"""The results of many trials, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.lab.failover.trial import Fault, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress_router.lab.failover.laboratories import Failure

_HEAD = (
    f"{'':24} {'':6} {'client p50':>10} {'p90':>7} {'p99':>7} {'max':>7} {'wire p50':>9} {'p99':>7}"
    f" {'machine p99':>11} {'heartbeat late p99':>18} {'max':>7} {'a trial':>8}  frames of a second owner"
)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(results: Sequence[Result]) -> str:
    """Return a table: the client's gaps, the silence on the wire, and delays of the machine itself."""
    lines = [_HEAD]
    for fault in Fault:
        found = [result for result in results if result.fault is fault]
        if not found:
            continue
        gaps, wires = [each.gap for each in found], [each.wire for each in found if each.wire is not None]
        late = [each.late for each in found]
        frames = sum(len(each.second_owner) for each in found)
        wire = [f"{percentile(wires, share):6.3f}s" for share in (0.5, 0.99)] if wires else ["-", "-"]
        lines.append(
            f"{fault.value:24} {len(found):6} {percentile(gaps, 0.5):9.3f}s"
            f" {percentile(gaps, 0.9):6.3f}s {percentile(gaps, 0.99):6.3f}s {max(gaps):6.3f}s"
            f" {wire[0]:>9} {wire[1]:>7} {percentile([each.machine for each in found], 0.99):10.3f}s"
            f" {percentile(late, 0.99):17.3f}s {max(late):6.3f}s"
            f" {sum(each.took for each in found) / len(found):7.2f}s  {frames}"
        )
    return "\n".join(lines)


def line(outcome: Result | Failure) -> str:
    """Return the result of one trial as text."""
    if not isinstance(outcome, Result):
        return f"{outcome.fault.value}: FAILED: {outcome.error}"
    wire = "" if outcome.wire is None else f", wire {outcome.wire:.3f} s"
    return (
        f"{outcome.fault.value}: {outcome.gap:.3f} s{wire}, machine {outcome.machine:.3f} s,"
        f" heartbeat {outcome.late:.3f} s late, {len(outcome.second_owner)} frames"
    )
