"""``face-align benchmark``: reinforcement learning algorithms side by side on FaceAlign-v0.

A benchmark is a folder of trials: one algorithm, one start and one seed each (``trial.py``), trained in processes of
their own (``schedule.py``), and put together in ``report.py``.
"""
