"""Device code: XᵀX of a batch's patches, gathered from the image as they are needed.

Legend: P entries of a patch, N rows (patches); pairs of entry blocks make up the upper
triangle of XᵀX.

What is rounded, and where: operands never (the products of two half-precision numbers
are exact in float32); sums of up to 1,024 rows in float32, in parts of one tile each;
everything beyond that in float64. Tensor cores cut off what they add to their
accumulator instead of rounding it, which biases long sums of like signs: so each tile's
product leaves them and is added as an ordinary float32.
"""

# Triton compiles this file's functions, and their arguments are its own types.
# pyright: basic, reportGeneralTypeIssues=false, reportArgumentType=false
# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false
# pyright: reportOptionalOperand=false, reportIndexIssue=false
# ruff: noqa: D103

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pair_of_blocks(pair, NUM_BLOCKS: tl.constexpr):
    # Row i of the upper triangle starts at pair i * NUM_BLOCKS - i * (i - 1) / 2.
    first = 0
    for i in tl.range(1, NUM_BLOCKS):
        first += (pair >= i * NUM_BLOCKS - i * (i - 1) // 2).to(tl.int32)
    start = first * NUM_BLOCKS - first * (first - 1) // 2
    return first, first + pair - start


@triton.jit
def locate_entries(
    block,
    channel_stride,
    strides,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    NUM_ENTRIES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    INDEX: tl.constexpr,
):
    # What an entry adds to a row's place in memory and in the image.
    entry = block * BLOCK_P + tl.arange(0, BLOCK_P)
    at2 = entry % KERNEL[2] * DILATION[2]
    rest = entry // KERNEL[2]
    at1 = rest % KERNEL[1] * DILATION[1]
    rest = rest // KERNEL[1]
    at0 = rest % KERNEL[0] * DILATION[0]
    channel = rest // KERNEL[0]
    offset = (
        channel.to(INDEX) * channel_stride
        + at0.to(INDEX) * strides[0]
        + at1.to(INDEX) * strides[1]
        + at2.to(INDEX) * strides[2]
    )
    return offset, at0, at1, at2, entry < NUM_ENTRIES


@triton.jit
def locate_rows(
    image,
    out0,
    out1,
    out2,
    batch,
    image_stride,
    strides,
    STRIDE: tl.constexpr,
    BEFORE: tl.constexpr,
    INDEX: tl.constexpr,
):
    # Of a patch's first entry; outside of the image where that lies in the border.
    at0 = out0 * STRIDE[0] - BEFORE[0]
    at1 = out1 * STRIDE[1] - BEFORE[1]
    at2 = out2 * STRIDE[2] - BEFORE[2]
    offset = (
        image.to(INDEX) * image_stride
        + at0.to(INDEX) * strides[0]
        + at1.to(INDEX) * strides[1]
        + at2.to(INDEX) * strides[2]
    )
    return offset, at0, at1, at2, image < batch


@triton.jit
def inside(entries, rows, size):
    place = entries[:, None] + rows[None, :]
    return (place >= 0) & (place < size)


@triton.jit
def load_patches(x_ptr, entries, rows, in_size, PADDED: tl.constexpr):
    # [BLOCK_P, BLOCK_N], zero in the border and beyond the last entry and row.
    mask = entries[4][:, None] & rows[4][None, :]
    if PADDED[0]:
        mask &= inside(entries[1], rows[1], in_size[0])
    if PADDED[1]:
        mask &= inside(entries[2], rows[2], in_size[1])
    if PADDED[2]:
        mask &= inside(entries[3], rows[3], in_size[2])
    return tl.load(x_ptr + (entries[0][:, None] + rows[0][None, :]), mask, other=0.0)


@triton.jit
def advance(digit, step, carry, size):
    # One digit of a number in mixed radix; step < size, so that it carries at most 1.
    total = digit + step + carry
    carries = (total >= size).to(tl.int32)
    return total - carries * size, carries


@triton.jit
def partial_products(
    x_ptr,
    partial_ptr,
    batch,
    out_size,
    in_size,
    image_stride,
    group_stride,
    channel_stride,
    strides,
    num_groups,
    chunks_per_split,
    tiles_per_chunk,
    NUM_ENTRIES: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    BEFORE: tl.constexpr,
    PADDED: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    INDEX: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    # One pair of entry blocks, one group, one range of rows.
    pair, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, second = pair_of_blocks(pair, NUM_BLOCKS)
    x_ptr += group.to(tl.int64) * group_stride
    left = locate_entries(
        first, channel_stride, strides, KERNEL, DILATION, NUM_ENTRIES, BLOCK_P, INDEX
    )
    right = locate_entries(
        second, channel_stride, strides, KERNEL, DILATION, NUM_ENTRIES, BLOCK_P, INDEX
    )
    # A row's number in mixed radix: image, output position. Counting on costs a few
    # additions a tile, three divisions by numbers unknown to the compiler many more.
    row = split * chunks_per_split * tiles_per_chunk * BLOCK_N + tl.arange(0, BLOCK_N)
    out2 = row % out_size[2]
    out1 = row // out_size[2] % out_size[1]
    out0 = row // (out_size[2] * out_size[1]) % out_size[0]
    image = row // (out_size[2] * out_size[1] * out_size[0])
    step2 = BLOCK_N % out_size[2]
    step1 = BLOCK_N // out_size[2] % out_size[1]
    step0 = BLOCK_N // (out_size[2] * out_size[1]) % out_size[0]
    images = BLOCK_N // (out_size[2] * out_size[1] * out_size[0])

    total = tl.zeros((BLOCK_P, BLOCK_P), tl.float64)
    for _ in tl.range(chunks_per_split):
        chunk = tl.zeros((BLOCK_P, BLOCK_P), tl.float32)
        for _ in tl.range(tiles_per_chunk):
            rows = locate_rows(
                image,
                out0,
                out1,
                out2,
                batch,
                image_stride,
                strides,
                STRIDE,
                BEFORE,
                INDEX,
            )
            a = load_patches(x_ptr, left, rows, in_size, PADDED)
            b = a
            if NUM_BLOCKS > 1:
                b = load_patches(x_ptr, right, rows, in_size, PADDED)
            if WIDEN:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            # The last argument means nothing for these dtypes, but keeps the compiler
            # from making the sum the tensor cores' accumulator (tested on its output).
            chunk += tl.dot(
                a,
                tl.trans(b),
                input_precision=PRECISION,
                max_num_imprecise_acc=BLOCK_N,
            )
            out2, carry = advance(out2, step2, 0, out_size[2])
            out1, carry = advance(out1, step1, carry, out_size[1])
            out0, carry = advance(out0, step0, carry, out_size[0])
            image += images + carry
        total += chunk.to(tl.float64)

    num_pairs: tl.constexpr = NUM_BLOCKS * (NUM_BLOCKS + 1) // 2
    place = (split * num_groups + group).to(tl.int64) * num_pairs + pair
    entry = tl.arange(0, BLOCK_P)
    block_ptr = partial_ptr + place * BLOCK_P * BLOCK_P
    tl.store(block_ptr + entry[:, None] * BLOCK_P + entry[None, :], total)


@triton.jit
def add_splits(
    partial_ptr,
    result_ptr,
    num_groups,
    num_splits,
    NUM_ENTRIES: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    NUM_VALUES: tl.constexpr,
    SPLITS_AT_ONCE: tl.constexpr,
):
    # Some values of one pair of blocks, into both triangles of the result.
    pair, part, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, second = pair_of_blocks(pair, NUM_BLOCKS)
    num_pairs: tl.constexpr = NUM_BLOCKS * (NUM_BLOCKS + 1) // 2
    value = part * NUM_VALUES + tl.arange(0, NUM_VALUES)
    some = tl.arange(0, SPLITS_AT_ONCE)
    total = tl.zeros((NUM_VALUES,), tl.float64)
    for start in tl.range(0, num_splits, SPLITS_AT_ONCE):
        split = start + some
        place = (split * num_groups + group).to(tl.int64) * num_pairs + pair
        offset = place[:, None] * (BLOCK_P * BLOCK_P) + value[None, :]
        found = tl.load(partial_ptr + offset, (split < num_splits)[:, None], other=0.0)
        total += tl.sum(found, axis=0)
    row = first * BLOCK_P + value // BLOCK_P
    column = second * BLOCK_P + value % BLOCK_P
    # Of the blocks on the diagonal one half, so that the result is symmetric to the
    # bit. As row <= column, the column decides whether both are entries.
    mask = (row <= column) & (column < NUM_ENTRIES)
    result_ptr += group.to(tl.int64) * NUM_ENTRIES * NUM_ENTRIES
    wide_row, wide_column = row.to(tl.int64), column.to(tl.int64)
    tl.store(result_ptr + wide_row * NUM_ENTRIES + wide_column, total, mask)
    tl.store(result_ptr + wide_column * NUM_ENTRIES + wide_row, total, mask)
