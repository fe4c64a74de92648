"""The exit codes of the command, the same for all subcommands."""

EXIT_OK = 0
# A run or a case failed, and said so.
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
# 128 and the signal's number.
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143
