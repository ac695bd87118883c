"""Gives all connections of one client address to the same worker, so that the limit per client is exact.

A classic BPF program (linux/filter.h) chooses among the sockets of an SO_REUSEPORT group, in the order in
which they began to listen; socket(7) describes SO_ATTACH_REUSEPORT_CBPF. It needs no privilege.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_ATTACH = 51  # SO_ATTACH_REUSEPORT_CBPF; Python has no name for it
_NET = 0xFFF00000  # SKF_NET_OFF: offsets from here on count from the network header
_LOAD_BYTE, _LOAD_WORD = 0x30, 0x20  # BPF_LD | BPF_ABS | BPF_B, BPF_W
_SHIFT, _MODULO = 0x74, 0x94  # BPF_ALU | BPF_K | BPF_RSH, BPF_MOD
_IF_EQUAL, _JUMP, _RETURN = 0x15, 0x05, 0x16  # BPF_JMP | BPF_JEQ, BPF_JMP | BPF_JA, BPF_RET | BPF_A
_INSTRUCTION = struct.Struct("=HBBI")


def choose_by_client(member: socket.socket, workers: int) -> None:
    """Make the group of `member`, which has `workers` sockets, choose by the client's address alone.

    Raises:
        OSError: the kernel refuses (before Linux 4.5).
    """
    program = (
        (_LOAD_BYTE, 0, 0, _NET),
        (_SHIFT, 0, 0, 4),  # the version of the IP header
        (_IF_EQUAL, 2, 0, 6),
        (_LOAD_WORD, 0, 0, _NET + 12),  # IPv4: source address
        (_JUMP, 0, 0, 1),
        (_LOAD_WORD, 0, 0, _NET + 20),  # IPv6: last four bytes of the source address
        (_MODULO, 0, 0, workers),
        (_RETURN, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*each) for each in program))
    filter_program = struct.pack("@HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    member.setsockopt(socket.SOL_SOCKET, _ATTACH, filter_program)
