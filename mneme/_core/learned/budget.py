"""How many wrong answers may be served, and which chances of one are taken for that."""

from __future__ import annotations

from collections import deque

import numpy as np

__all__ = ["Budget"]

RECENT = 1_500
"""Asks whose chances of a wrong answer say what the next ones will be like."""

HORIZON = 4_000
"""Asks over which an under- or overspent budget is made up for; no more of it is remembered."""

FASTEST = 2.0
"""Times the budget that may be spent at most while making up."""

SPENDABLE = 0.95
"""Share of the budget that is planned for: chance alone moves the count of errors."""

AS_EXPECTED = 8.0
"""Errors that audits must find before their count weighs as much as the chances that were said."""

TOO_RISKY = 0.2
"""A chance of a wrong answer that is never taken: saved, the budget buys more hits later."""


class Budget:
    """
    The largest chance of a wrong answer that may be taken now: ``limit``, below 0 for none.

    Of the recent asks, best first, as many as fit the budget when their chances are summed
    would have been served; the limit is the chance of the last of them. Audits check the
    chances: where they find more errors than expected, less is planned for.
    """

    def __init__(self, max_error: float) -> None:
        self.rate = max_error * SPENDABLE
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.asks = 0
        self.spent = 0.0
        self.limit = -1.0
        self.expected = 0.0
        self.found = 0.0

    def ask(self, chance_wrong: float) -> None:
        """Count one ask, whatever becomes of it."""
        self.asks += 1
        self.recent.append(chance_wrong)

    def spend(self, chance_wrong: float) -> None:
        """Count one hit."""
        self.spent += chance_wrong

    def refund(self, chance_wrong: float) -> None:
        """Uncount one hit."""
        self.spent -= chance_wrong

    def audit(self, chance_wrong: float, wrong: float) -> None:
        """Hear how one audited hit turned out; `wrong` is from 0 to 1."""
        self.expected += chance_wrong
        self.found += wrong

    def pace(self) -> None:
        """Set the limit anew."""
        # Few audits find an error: fewer than expected is mostly luck, more is a warning.
        planned = self.rate * min((AS_EXPECTED + self.expected) / (AS_EXPECTED + self.found), 1.0)
        most = planned * HORIZON
        credit = min(max(planned * self.asks - self.spent, -most), most)
        self.spent = planned * self.asks - credit
        rate = min(max(planned + credit / HORIZON, 0.0), FASTEST * planned)
        chances = np.sort(np.fromiter(self.recent, np.float64, len(self.recent)))
        count = int(np.searchsorted(np.cumsum(chances), rate * len(chances), side="right"))
        self.limit = min(float(chances[count - 1]), TOO_RISKY) if count else -1.0
