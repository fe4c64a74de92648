"""`trainact bench`: what TrAct costs, in time and memory, on this machine.

The order of the parts:

    options → jobs (plan.py) → workloads (cases, arms, modes) → gate → timing, memory,
    launches, floor → records → summary → tables, plot
"""
