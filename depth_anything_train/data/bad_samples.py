"""Samples that cannot be used: counted by reason over a whole run; too many of them stop it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import distributed

from depth_anything_train.ops.gather import gather_objects
from depth_anything_train.runtime import UserError, console


class BadSamples:
    """Counts what this process sees, on top of what all processes saw before the run was interrupted.

    Args:
        max_share: largest share of the samples seen so far.
        at_least: number of bad samples before which the share is not judged.
        before: state of the run that is continued.
    """

    def __init__(self, max_share: float, *, at_least: int = 20, before: Mapping[str, Any] | None = None) -> None:
        self.max_share, self.at_least = max_share, at_least
        self.before = before or {"seen": 0, "reasons": {}}
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._used: tuple[int, Counter[str]] = (0, Counter())

    def count(self, seen: int, problems: Iterable[tuple[str, str]]) -> None:
        """Count `seen` more samples, among them bad ones as (reason, message); the 1st and every 1000th is shown.

        Raises:
            UserError: the share of bad samples is above the limit.
        """
        self.seen += seen
        for reason, message in problems:
            self.reasons[reason] += 1
            number = self.reasons.total()
            if number == 1 or number % 1000 == 0:
                console.print(f"Bad sample number {number} ({reason}): {message}", soft_wrap=True)
        # A process judges what it sees itself, and so only its part of what all of them saw before.
        ranks = distributed.get_world_size() if distributed.is_initialized() else 1
        all_seen = self.before["seen"] // ranks + self.seen
        reasons = self.reasons + Counter({reason: n // ranks for reason, n in self.before["reasons"].items()})
        bad = reasons.total()
        if bad >= self.at_least and bad > self.max_share * all_seen:
            raise UserError(
                f"{bad} of {all_seen} samples cannot be used ({dict(reasons.most_common())}), more than "
                f"data.max_bad_share={self.max_share}; find them with `depth-anything verify`, or allow more."
            )

    def note_used(self) -> None:
        """Mark what was counted as trained on; samples loaded ahead of a checkpoint are loaded again after it."""
        self._used = self.seen, self.reasons.copy()

    def state(self) -> dict[str, Any]:
        """What all processes have used, for a checkpoint. Every process must call it."""
        parts = gather_objects(self._used)
        reasons = sum((reasons for _, reasons in parts), Counter(self.before["reasons"]))
        return {"seen": self.before["seen"] + sum(seen for seen, _ in parts), "reasons": dict(reasons)}

    def close(self) -> None:
        """Say, once for all processes, what of the run could not be used, and why. Every process must call it.

        Raises:
            UserError: it was everything, so that nothing was learnt.
        """
        state = self.state()
        seen, counts = state["seen"], Counter(state["reasons"])
        if not counts:
            return
        bad, reasons = counts.total(), ", ".join(f"{count} x {reason}" for reason, count in counts.most_common())
        if bad == seen:
            raise UserError(f"None of {bad} samples could be used ({reasons}); see `depth-anything verify`.")
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            console.print(f"{bad} of {seen} samples could not be used: {reasons}.", soft_wrap=True)
