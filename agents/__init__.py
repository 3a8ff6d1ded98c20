"""The agent DCRN and everything that trains, runs and measures it."""
