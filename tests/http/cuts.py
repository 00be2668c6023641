"""Every way bytes may arrive: whole, one by one, and cut at every place."""

from itertools import pairwise


def cuts(data: bytes) -> list[list[bytes]]:
    return [[data], [data[i : i + 1] for i in range(len(data))], *([data[:i], data[i:]] for i in range(1, len(data)))]


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at these places, wherever they lie."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]
