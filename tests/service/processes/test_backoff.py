"""When a dead worker is started again."""

from __future__ import annotations

from mooring_service.processes.backoff import RestartBudget


def test_restarts_come_after_growing_delays_and_then_not_at_all() -> None:
    budget = RestartBudget(5, 60, 0.1, 1.0)
    delays = [budget.died(float(n), 1.0) for n in range(6)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, None]
    assert budget.died(61.0, 1.0) is not None, "a death a minute ago is forgotten"
    budget.reset()
    assert budget.died(61.0, 0.0) == 0.05, "jitter halves at most"
