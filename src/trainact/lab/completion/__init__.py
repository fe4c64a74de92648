"""Completion of commands in a shell: ``trainact completion``."""
