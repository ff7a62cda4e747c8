"""Walking folders that hold links: nothing is met twice, and no walk goes in circles."""

from __future__ import annotations

import os
from pathlib import Path


class LinkedFolders:
    """Which links to folders a walk below `root` follows: those that lead elsewhere, and each of their targets once.

    A link to what lies below the root anyway would give its files a second name, or lead in circles.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(os.path.realpath(root))
        self._seen: set[Path] = set()

    def follow(self, link: str | Path) -> bool:
        """Whether to go where a link leads; the same target is refused from then on."""
        target = Path(os.path.realpath(link))
        if target.is_relative_to(self._root) or self._root.is_relative_to(target) or target in self._seen:
            return False
        self._seen.add(target)
        return True
