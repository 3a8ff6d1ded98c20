"""The embedded dataset: faces drawn from a parametric 3D head."""
