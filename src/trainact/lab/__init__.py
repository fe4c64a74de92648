"""Experiments: train the same model with several methods and compare.

Installed with ``trainact[lab]``; the core never imports it. The order of the parts:

    options → grid of `RunConfig` → one run each (`run.py`) → records → report → files
"""
