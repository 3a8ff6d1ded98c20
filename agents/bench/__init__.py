"""``face-align bench``: what each part of the package costs on the machine at hand.

:mod:`~agents.bench.measure` has the clockwork, :mod:`~agents.bench.workbench` what is measured on, a module for each
topic the groups of measurements, and :mod:`~agents.bench.report` runs them and writes what they found.

This file imports nothing: the processes whose memory is measured load :mod:`~agents.bench.memory` alone.
"""
