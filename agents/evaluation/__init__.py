"""Measuring the methods of a run on test faces: tables, the paper's tables, figures, several seeds."""
