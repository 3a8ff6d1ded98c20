"""Writers of small datasets, each in the form in which the real one is published."""
