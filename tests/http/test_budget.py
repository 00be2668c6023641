"""What a nuisance costs an HTTP/2 client."""

from mcpproxy.http import budget
from mcpproxy.http.budget import POINTS, REFILL, Budget


def test_a_flood_uses_up_all_points() -> None:
    account = Budget(0.0)
    parts = [account.spend(budget.CANCEL, 0.0) for _ in range(POINTS // budget.CANCEL)]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_points_come_back_with_time() -> None:
    account = Budget(0.0)
    account.spend(POINTS, 0.0)
    assert account.spend(0, POINTS / REFILL / 2) == 0.5
    assert account.spend(budget.PING, 1e6) == budget.PING / POINTS


def test_a_client_that_asks_for_a_sign_of_life_every_second_never_runs_out() -> None:
    account = Budget(0.0)
    assert all(account.spend(budget.PING, float(second)) < 0.01 for second in range(24 * 3600))


def test_rapid_reset_is_ended_after_a_few_hundred_requests() -> None:
    """CVE-2023-44487: some resets are a browser that leaves a page, thousands are an attack."""
    assert 100 <= POINTS // budget.CANCEL <= 500
    assert budget.FAULT >= budget.CANCEL, "resets that we are made to send cost as much (CVE-2025-8671)"
