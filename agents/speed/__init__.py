"""``face-align speed``: what each part of the package costs on the machine at hand.

``measure.py`` has the clockwork, ``workbench.py`` what is measured on, a module for each topic the groups of
measurements, and ``report.py`` runs them and writes what they found.

This file imports nothing: the processes whose memory is measured load ``memory.py`` alone.
"""
