"""When EIE is done, by recurrences over broadcasts instead of a clock: imports nothing of ours.

Broadcast k leaves in cycle B[k]; its pair is at work in PE p from cycle v to e - 1:

    B[k] = max(B[k - 1] + 1, e[p, k - depth] over all p)
    v[p, k] = max(e[p, k - 1], B[k] + 2), e[p, k] = v[p, k] + max(1, entries)

An entry is fetched and goes through four stages in the five cycles after its pair let it go; the cycle of an
empty pair is gone after two.
"""


def batch_cycles(entries: list[list[int]], depth: int) -> int:
    """Cycles from the first broadcast on; `entries[k][p]` of broadcast k in PE p."""
    sent, ends, last = [], [], 0
    for k, counts in enumerate(entries):
        earliest = sent[-1] + 1 if sent else 0
        sent.append(max([earliest, *(ends[k - depth] if k >= depth else [])]))
        before = ends[-1] if ends else [0] * len(counts)
        ends.append([max(end, sent[-1] + 2) + max(1, n) for end, n in zip(before, counts, strict=True)])
        last = max([last, *(end + (5 if n else 2) for end, n in zip(ends[-1], counts, strict=True))])
    return last


def sram_reads(columns: list[tuple[int, int]], a_row: int, keep: bool) -> int:
    """Of one PE that goes through the entries [first, last) of these columns, `a_row` entries a read."""
    reads, row = 0, None
    for first, last in columns:
        for at in range(first, last):
            if at // a_row != row or (at == first and not keep):
                reads += 1
            row = at // a_row
    return reads
