"""The agent DCRN and everything that trains, runs and measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from face_align_env.agents.trained import load_agent

__all__ = ["load_agent"]


def __getattr__(name: str) -> Any:
    """Import on first use: Stable-Baselines3 takes seconds."""
    if name == "load_agent":
        from face_align_env.agents.trained import load_agent

        return load_agent
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
