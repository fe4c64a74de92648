"""Experiments: train the same model with several methods and compare.

Installed with ``trainact[lab]``; the core never imports it. The order of the parts:

    recipe or options → jobs → one run each (`run.py`) → records → report

A run's settings say everything about its outcome (`config.py`); where and how it is
carried out (`jobs.py`) says nothing about it.
"""
