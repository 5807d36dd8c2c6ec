"""Which items share a bin: best fit decreasing, over columns of millions of sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy


def _largest_first(sizes: numpy.ndarray) -> numpy.ndarray:
    """Return the places of sizes, the largest first, equal ones in their order."""
    # numpy sorts 16-bit numbers digit by digit, in linear time.
    if sizes.size and sizes.max() < 2**16:
        return _stable_order(numpy.uint16(2**16 - 1) - sizes.astype(numpy.uint16))
    return _stable_order(-sizes.astype(numpy.int64))


def assign(sizes: numpy.ndarray, length: int) -> tuple[numpy.ndarray, numpy.ndarray, int]:
    """Put items into bins of `length`, by best fit decreasing.

    The largest item comes first, each into the fullest bin that still takes it. Items of one size
    are put in together: the bins with the smallest sufficient room take as many of them as they
    can, then those with the next room, then new ones. So the work grows with the number of sizes,
    not of items.

    Args:
        sizes: Of the items, 1 to length.
        length: Of a bin.

    Returns:
        (places of the items, the largest first; the bin of each of these, int32; number of bins).
    """
    order = _largest_first(sizes)
    counts = numpy.bincount(sizes, minlength=length + 1)
    bin_of = numpy.empty(len(sizes), numpy.int32)
    rooms: dict[int, list[numpy.ndarray]] = {}  # bins by the room that is left
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
    """Put items of one size into bins with one room, each bin filled before the next.

    Args:
        bin_of: Gets the bins of the items.
        first: The place of the first item.
        open_bins: The bins.
        items: How many items there are.
        room: Of each bin.
        size: Of each item.
        rooms: Gets the bins with the room that is left.

    Returns:
        (items put in, bins that are untouched).
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
        Groups of item numbers.
    """
    order, bin_of, count = assign(numpy.asarray(sizes, numpy.int64), length)
    found: list[list[int]] = [[] for _ in range(count)]
    for item, number in zip(order.tolist(), bin_of.tolist(), strict=True):
        found[number].append(item)
    return found


def digits(bin_of: numpy.ndarray) -> list[numpy.ndarray]:
    """Return the bin of each item as 16-bit digits, the lowest first, each uint16.

    Args:
        bin_of: The bin of each item, int32.
    """
    found = [(bin_of & 0xFFFF).astype(numpy.uint16)]
    if len(bin_of) and bin_of.max() >= 2**16:
        found.append((bin_of >> 16).astype(numpy.uint16))
    return found


def sort_by(digits: list[numpy.ndarray]) -> numpy.ndarray:
    """Return the places that sort items by their digits, those of a bin in their order, int32.

    A pass for each digit: numpy sorts 16-bit numbers in linear time.

    Args:
        digits: From `digits`. It is emptied, to free their memory as it goes.
    """
    order = _stable_order(digits.pop(0))
    while digits:
        keys = digits.pop(0)[order]
        order = order[_stable_order(keys)]
    return order


def _stable_order(keys: numpy.ndarray) -> numpy.ndarray:
    """Return the places that sort keys, equal ones in their order, int32: half of numpy's int64."""
    return numpy.argsort(keys, kind="stable").astype(numpy.int32)
