"""Supervised training of GEN and LRN: the pre-training of section 3.2."""
