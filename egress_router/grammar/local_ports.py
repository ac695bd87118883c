"""Which line has which local port, by protocol and family."""

from __future__ import annotations

from array import array

_PORTS = 65536


class LocalPorts:
    """One table of all ports for each protocol and family, so that no line is compared with the others."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], tuple[bytearray, array[int]]] = {}

    def take(self, protocol: str, version: int, first: int, last: int, line: int) -> str | None:
        """Note that a line has these ports; return an error if another line has one of them."""
        key = (protocol, version)
        if key not in self._tables:
            self._tables[key] = bytearray(_PORTS), array("L", [0]) * _PORTS
        taken, owners = self._tables[key]
        port = taken.find(1, first, last + 1)
        if port >= 0:
            return (
                f"localport {port} is already used for {protocol} on line {owners[port]},"
                " must be unique for each protocol and family"
            )
        count = last - first + 1
        taken[first : last + 1] = b"\1" * count
        owners[first : last + 1] = array("L", [line]) * count
        return None
