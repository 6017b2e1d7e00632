"""The 2:4 format by loops over lists: imports nothing of ours."""


def encode_row(row: list[float]) -> tuple[list[float], list[int]]:
    """Kept values and the bytes of positions of a row with at most two non-zeros in each four."""
    values, nibbles = [], []
    for g in range(0, len(row), 4):
        group = row[g : g + 4]
        places = [i for i in range(4) if group[i] != 0]
        assert len(places) <= 2
        for i in range(4):
            if len(places) < 2 and i not in places:
                places.append(i)
        places.sort()
        values += [group[i] for i in places]
        nibbles.append(places[0] + 4 * places[1])
    if len(nibbles) % 2:
        nibbles.append(0)
    return values, [low + 16 * high for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)]


def decode_row(values: list[float], packed: list[int], n_in: int) -> list[float]:
    """A row from its values and bytes of positions."""
    row = [0.0] * n_in
    for j, value in enumerate(values):
        place = packed[j // 4] // 4 ** (j % 4) % 4
        row[j // 2 * 4 + place] = value
    return row


def best_two(row: list[float]) -> list[bool]:
    """Which two of each four are the largest; of equal ones the first."""
    mask = []
    for g in range(0, len(row), 4):
        ranked = sorted(range(4), key=lambda i: (-abs(row[g + i]), i))
        mask += [i in ranked[:2] for i in range(4)]
    return mask
