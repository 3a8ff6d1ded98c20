"""A search over a run's settings, on Ray Tune.

``space`` says which settings there are to try, ``trial`` trains and measures one of them, ``search`` does all of them.
"""
