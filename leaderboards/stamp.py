"""What a board was computed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stamp:
    """Versions, commit and date that every file of a board bears."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that computed it."""
    commit: str | None = None
    date: str | None = None
    """Date as the caller gives it; no clock is read."""

    def text(self) -> str:
        """The stamp in one line."""
        parts = [f"{name} {version}" for name, version in self.versions.items()]
        parts += [f"commit {self.commit[:8]}"] if self.commit else []
        return ", ".join([*parts, *([self.date] if self.date else [])]) or "unknown versions"
