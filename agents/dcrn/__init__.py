"""DCRN: the paper's agent (section 3.2) on Stable-Baselines3."""
