r"""Device code: a small symmetric positive definite inverse, in registers.

The sweep operator (Gauss-Jordan elimination of a symmetric matrix, without pivoting):
one sweep per entry k, with pivot d = M[k, k] and column c = M[:, k],

    M <- M - c cᵀ / d,   M[:, k] = M[k, :] = c / d,   M[k, k] = -1 / d,

after which M is minus its inverse. The pivots are the squares of the Cholesky factor's
diagonal, so that they are all positive exactly where a Cholesky factorisation succeeds.

References:
    Goodnight: A tutorial on the SWEEP operator, The American Statistician 33(3), 1979.
"""

# Triton compiles this file's function, and its arguments are its own types.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false, reportIndexIssue=false
# ruff: noqa: D103

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def damped_inverses(
    products_ptr,
    result_ptr,
    num_rows: tl.float64,
    lam: tl.float64,
    of_trace: tl.float64,
    RESOLUTION: tl.constexpr,
    TINY: tl.constexpr,
    NUM_ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One group. Beyond the entries the matrix is zero, and stays so.
    group = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, BLOCK)
    row, column = entry[:, None], entry[None, :]
    on_diagonal = row == column
    # The lower triangle alone is read, as in a Cholesky factorisation.
    lower = tl.maximum(row, column) * NUM_ENTRIES + tl.minimum(row, column)
    mask = (row < NUM_ENTRIES) & (column < NUM_ENTRIES)
    products_ptr += group * NUM_ENTRIES * NUM_ENTRIES
    matrix = tl.load(products_ptr + lower, mask, other=0.0).to(tl.float64) / num_rows
    trace = tl.sum(tl.sum(tl.where(on_diagonal, matrix, 0.0), axis=0), axis=0)
    # A relative damping; nothing but zeros has no size, and takes it as it is.
    is_relative = (of_trace > 0) & (trace > 0)
    relative = tl.where(of_trace * trace > TINY, of_trace * trace, TINY)
    wanted = tl.where(is_relative, relative, lam)
    resolvable = RESOLUTION * trace
    shift = tl.where(resolvable > wanted, resolvable, wanted)
    matrix = tl.where(on_diagonal & mask, matrix + shift, matrix)

    num_positive = 0
    for k in tl.range(NUM_ENTRIES):
        # Row k, which is column k: the matrix is symmetric to the bit throughout.
        values = tl.sum(tl.where(row == k, matrix, 0.0), axis=0)
        pivot = tl.sum(tl.where(entry == k, values, 0.0), axis=0)
        num_positive += (pivot > 0).to(tl.int32)
        scale = 1.0 / pivot
        in_row, in_column = row == k, column == k
        swept = matrix - (values[:, None] * values[None, :]) * scale
        edge = tl.where(in_row, values[None, :], values[:, None]) * scale
        matrix = tl.where(in_row | in_column, edge, swept)
        matrix = tl.where(in_row & in_column, -scale, matrix)

    # Where rounding has won, tr A x I takes A's place; what is not finite stays so.
    bound = trace + shift
    instead = tl.where(on_diagonal, 1.0 / bound, 0.0)
    inverse = tl.where(num_positive == NUM_ENTRIES, -matrix, instead)
    inverse = tl.where(bound - bound == 0, inverse, float("nan"))
    result_ptr += group * NUM_ENTRIES * NUM_ENTRIES
    tl.store(result_ptr + row * NUM_ENTRIES + column, inverse, mask)
