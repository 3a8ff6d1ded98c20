"""Studies of a trained run: ablations, accuracy against iterations, robustness, other aligners."""
