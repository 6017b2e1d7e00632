"""The clock of a run that ends by the clock."""

import time


class RunClock:
    """The time that a run has taken, over all its starts.

    Args:
        limit: seconds; 0 for none.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._began = time.monotonic()

    def go_on(self, seconds: float) -> None:
        """Count `seconds` of an earlier start too."""
        self._began -= seconds

    @property
    def seconds(self) -> float:
        """Since the first start, the time between two starts left out."""
        return time.monotonic() - self._began

    @property
    def share(self) -> float:
        """Of the limit that has passed, 0 ... 1; 0 without a limit."""
        return min(self.seconds / self.limit, 1.0) if self.limit else 0.0
