"""Decide which items share a bin: best fit decreasing, for arrays of millions of sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy


def _largest_first(sizes: numpy.ndarray) -> numpy.ndarray:
    """Return the indices that sort sizes, the largest first; equal sizes keep their order."""
    # NumPy sorts 16-bit numbers digit by digit, in linear time.
    if sizes.size and sizes.max() < 2**16:
        return _stable_order(numpy.uint16(2**16 - 1) - sizes.astype(numpy.uint16))
    return _stable_order(-sizes.astype(numpy.int64))


def assign(sizes: numpy.ndarray, length: int) -> tuple[numpy.ndarray, numpy.ndarray, int]:
    """Put items into bins of `length`, by best fit decreasing.

    Items are placed from the largest to the smallest, each into the fullest bin that still has
    room for it. Items of the same size are placed together. The bins with the smallest sufficient
    room take as many of them as they can, then the bins with the next larger room, then new bins.
    So the work grows with the number of different sizes, not with the number of items.

    Args:
        sizes: Size of each item, from 1 to `length`.
        length: Capacity of a bin.

    Returns:
        (indices of the items, the largest first, int32; the bin of each of these items, in the
        same order, int32; number of bins).
    """
    order = _largest_first(sizes)
    counts = numpy.bincount(sizes, minlength=length + 1)
    bin_of = numpy.empty(len(sizes), numpy.int32)
    rooms: dict[int, list[numpy.ndarray]] = {}  # {room left: arrays of bins}
    bins_made = first = 0
    for size in numpy.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        for room in sorted(room for room in rooms if room >= size):
            open_bins = numpy.concatenate(rooms.pop(room))
            used, rest = _fill(bin_of, first, open_bins, left, room, size, rooms)
            if len(rest):
                rooms.setdefault(room, []).append(rest)
            first, left = first + used, left - used
            if not left:
                break
        if left:
            needed = -(-left // (length // size))
            new_bins = numpy.arange(bins_made, bins_made + needed, dtype=numpy.int32)
            bins_made += needed
            used, _ = _fill(bin_of, first, new_bins, left, length, size, rooms)
            first += used
    return order, bin_of, bins_made


def _fill(
    bin_of: numpy.ndarray,
    first: int,
    open_bins: numpy.ndarray,
    items: int,
    room: int,
    size: int,
    rooms: dict[int, list[numpy.ndarray]],
) -> tuple[int, numpy.ndarray]:
    """Put items of one size into bins that have equal room; fill each bin before the next.

    Args:
        bin_of: The bin numbers of these items are written into this array.
        first: Index in `bin_of` of the first of these items.
        open_bins: Numbers of the bins.
        items: How many items to put in.
        room: Room left in each of the bins.
        size: Size of each item.
        rooms: {room left: arrays of bins}. Bins that were used and still have room are added.

    Returns:
        (how many items were put in, the bins that were not used).
    """
    each = room // size
    full = min(len(open_bins), items // each)
    used = full * each
    bin_of[first : first + used] = numpy.repeat(open_bins[:full], each)
    if full and room - each * size:
        rooms.setdefault(room - each * size, []).append(open_bins[:full])
    rest = open_bins[full:]
    more = min(items - used, each) if len(rest) else 0
    if more:
        bin_of[first + used : first + used + more] = rest[0]
        if room - more * size:
            rooms.setdefault(room - more * size, []).append(rest[:1])
        rest = rest[1:]
    return used + more, rest


def groups(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Group items so that the sizes of each group sum to at most `length`, see `assign`.

    Returns:
        The groups, each a list of item indices.
    """
    order, bin_of, count = assign(numpy.asarray(sizes, numpy.int64), length)
    found: list[list[int]] = [[] for _ in range(count)]
    for item, number in zip(order.tolist(), bin_of.tolist(), strict=True):
        found[number].append(item)
    return found


def digits(bin_of: numpy.ndarray) -> list[numpy.ndarray]:
    """Split the bin number of each item into 16-bit digits, the lowest digit first.

    Args:
        bin_of: Bin number of each item, int32.

    Returns:
        One uint16 array for each digit; one array if all numbers are below 65,536, else two.
    """
    found = [(bin_of & 0xFFFF).astype(numpy.uint16)]
    if len(bin_of) and bin_of.max() >= 2**16:
        found.append((bin_of >> 16).astype(numpy.uint16))
    return found


def sort_by(digits: list[numpy.ndarray]) -> numpy.ndarray:
    """Return the indices that sort items by bin, int32; items of one bin keep their order.

    This takes one pass for each digit, because NumPy sorts 16-bit numbers in linear time.

    Args:
        digits: The arrays from `digits`. The list is emptied on the way, to free memory.
    """
    order = _stable_order(digits.pop(0))
    while digits:
        keys = digits.pop(0)[order]
        order = order[_stable_order(keys)]
    return order


def _stable_order(keys: numpy.ndarray) -> numpy.ndarray:
    """Return the indices that sort keys; equal keys keep their order.

    The indices are int32, so they take half the memory of NumPy's int64.
    """
    return numpy.argsort(keys, kind="stable").astype(numpy.int32)
