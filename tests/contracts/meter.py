"""What every meter promises: it takes whatever it is told, and never grows with what callers send."""

from __future__ import annotations

from agentgate.ports.notices import Meter


class MeterContract:
    meter: Meter

    def test_takes_everything_that_the_pipeline_tells(self) -> None:
        self.meter.call_finished("db_query", "ALLOW", 0.001)
        self.meter.step("admission", 0.001)
        self.meter.step("policy", 0.001)
        self.meter.step("append", 0.001)
        self.meter.step("upstream", 0.001)
        self.meter.policy_evaluated("DENY", "default_deny")
        for name, label in (
            ("rate_limited", "db_query"),
            ("budget_spent", "session_calls"),
            ("budget_unknown", "tier_unknown"),
            ("budget_recounts", ""),
            ("budget_recount_failures", ""),
            ("kills", "session"),
            ("exports", "json"),
            ("tokens_refused", "invalid_token"),
            ("signatures_refused", "signature_expired"),
            ("log_unavailable", ""),
            ("kill_state_unknown", ""),
            ("faults", ""),
        ):
            self.meter.count(name, label)
