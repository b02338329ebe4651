"""The bytes of a state, read as slowly and plainly as they are described. Shares no code with the engine."""

HEAD = 32


def head_of(state):
    """(dropped, generation, size up to the tail, sealed)."""
    whole = [
        int.from_bytes(state[a:b], "little", signed=a in (0, 16))
        for a, b in ((0, 8), (8, 12), (12, 16), (16, 24))
    ]
    return tuple(whole)


def records_of(body, kinds):
    """Records as (time, number, values, known, void), in order of arrival.

    Args:
        kinds: of each stored column ``number`` or ``code``.
    """
    found = []
    while body:
        raw = int.from_bytes(body[:7], "little")
        flag, time = raw >> 54, raw & (2**54 - 1)
        time -= 2**54 if time >= 2**53 else 0
        number, body = int.from_bytes(body[7:13], "little"), body[13:]
        values = []
        for kind in kinds:
            if kind == "code":
                value, body = int.from_bytes(body[:7], "little"), body[7:]
                values.append(value or None)
            else:
                length = next(i for i, byte in enumerate(body) if byte < 128) + 1
                left = sum((byte & 127) << 7 * i for i, byte in enumerate(body[:length])) - 1
                body = body[length:]
                values.append(None if left < 0 else left // 2 if left % 2 == 0 else -(left + 1) // 2)
        late = {0: 0, 1: 3, 2: 7, 3: 7}[flag]
        known, body = time + int.from_bytes(body[:late], "little", signed=True), body[late:]
        found.append((time, number, tuple(values), known, flag == 3))
    return found


def tail_of(state, kinds):
    """The records after the sealed ones."""
    return records_of(state[head_of(state)[2] :], kinds)


def sealed_of(state):
    """Whether there are sealed events."""
    return head_of(state)[3] > -(2**63)


def content_of(client, key, kinds):
    """Every record of a state, sealed or not, sorted."""
    state = client.get(key)
    parts = client.hgetall(key + b":c")
    found = tail_of(state, kinds)
    nodes = _nodes_of(state[HEAD : head_of(state)[2]], kinds)
    while nodes:
        name, level = nodes.pop()
        content = parts.pop(b"%d" % name)
        if level:
            nodes += _nodes_of(content, kinds)
        else:
            found += records_of(content, kinds)
    if parts:
        raise ValueError(f"parts {sorted(parts)} belong to no node")
    return sorted(found, key=repr)


def _nodes_of(data, kinds):
    """(part, level) of packed nodes."""
    if not data:
        return []
    width = 8 * (6 + 8 * kinds.count("number"))
    rows = [data[4 + n * width : 4 + (n + 1) * width] for n in range(int.from_bytes(data[:4], "little"))]
    return [(int.from_bytes(row[:8], "little"), int.from_bytes(row[8:16], "little")) for row in rows]
