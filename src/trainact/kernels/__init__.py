"""Triton kernels for NVIDIA and AMD GPUs, and when they are used.

By default (``"auto"``) a kernel takes the place of PyTorch's own operators where a
committed measurement on the device at hand says that it is faster, and nowhere else.
`use` chooses otherwise:

    trainact.kernels.use("triton")             # from now on, or an error that says why
    with trainact.kernels.use("library"):      # PyTorch's operators, within the block
        ...
    trainact.kernels.use(products="triton")    # one of the two operations alone

Triton comes with PyTorch on Linux; trainact imports it when a kernel is first
used (PyTorch may have imported it before).
"""

from trainact.kernels.choice import use

__all__ = ["use"]
