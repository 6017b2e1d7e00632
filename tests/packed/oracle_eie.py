"""EIE's format by plain loops over lists: imports nothing of ours."""


def encode_slice(column: list[int], longest_skip: int) -> tuple[list[int], list[int]]:
    """Codes and skips of one column of one PE: what the paper's section III-B says, literally."""
    codes, skips, zeros = [], [], 0
    for code in column:
        if code == 0:
            zeros += 1
            continue
        while zeros > longest_skip:
            codes.append(0)
            skips.append(longest_skip)
            # the pad stands on a zero of its own
            zeros -= longest_skip + 1
        codes.append(code)
        skips.append(zeros)
        zeros = 0
    return codes, skips


def decode_slice(codes: list[int], skips: list[int], length: int) -> list[int]:
    """A column of one PE, `length` rows."""
    column = [0] * length
    row = -1
    for code, skip in zip(codes, skips, strict=True):
        row += skip + 1
        column[row] = code
    return column


def encode(matrix: list[list[int]], n_pe: int, longest_skip: int) -> dict[tuple[int, int], tuple]:
    """(PE, column) -> codes and skips, of a matrix given as rows."""
    n_in = len(matrix[0]) if matrix else 0
    found = {}
    for pe in range(n_pe):
        for j in range(n_in):
            found[pe, j] = encode_slice([row[j] for row in matrix[pe::n_pe]], longest_skip)
    return found
