"""The k smallest of a list of (distance, row): what kNN ranks its candidates with."""

import numpy as np

from pcsparse.kernels.cpu.launch import jit_serial

# up to here comparing each with each, in vectors, is quicker than a sort
_FEW = 160


@jit_serial
def keep_smallest(distances, rows, n, k, spare, spare_rows):
    """Put the k smallest of the first n entries in front, ascending, equal distances by row.

    Returns:
        How many there are, k at most.
    """
    for i in range(n):
        spare[i], spare_rows[i] = distances[i], rows[i]
    if n <= _FEW:
        for i in range(n):
            rows[i] = -1
        for i in range(n):
            distance, rank = spare[i], 0
            for j in range(n):
                rank += spare[j] < distance
            while rows[rank] >= 0:
                rank += 1
            distances[rank], rows[rank] = distance, spare_rows[i]
    else:
        order = np.argsort(spare[:n], kind="mergesort")
        for i in range(n):
            distances[i], rows[i] = spare[order[i]], spare_rows[order[i]]
    # equal ones lie side by side now
    for i in range(1, n):
        row, j = rows[i], i
        while j > 0 and distances[j - 1] == distances[i] and rows[j - 1] > row:
            rows[j] = rows[j - 1]
            j -= 1
        rows[j] = row
    return min(n, k)
