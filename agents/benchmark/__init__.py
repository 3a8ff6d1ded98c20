"""``face-align benchmark``: reinforcement learning algorithms side by side on FaceAlign-v0.

A benchmark is a folder of trials: one algorithm, one start and one seed each (:mod:`~agents.benchmark.trial`), trained
in processes of their own (:mod:`~agents.benchmark.schedule`), and put together in :mod:`~agents.benchmark.report`.
"""
