"""What must hold before a release: `python -m release` goes through it.

It publishes nothing: what is left to do by hand is printed at the end.
"""
