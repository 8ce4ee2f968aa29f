"""TensorBoard's event files: records of protocol-buffer messages, each with its checksums.

A record is its length (uint64), the masked checksum of that, the message and its masked checksum (uint32),
all little-endian; the checksum is CRC-32C (Castagnoli), rotated by 15 bits plus 0xa282ead8. The messages are
`Event` and what it holds, of tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

__all__ = ["PREFIX", "record", "restart_event", "scalar_event", "version_event"]

PREFIX = "events.out.tfevents."
"""What the name of an event file begins with; TensorBoard reads those of a directory in order of names."""

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


def version_event(time: float) -> bytes:
    """The first message of every file."""
    return _wall_time(time) + _field(3, b"brain.Event:2")


def restart_event(time: float, step: int) -> bytes:
    """A message that takes back what earlier files hold of this and later steps."""
    start = _tag(1, _VARINT) + _varint(1)
    return _wall_time(time) + _tag(2, _VARINT) + _varint(step) + _field(7, start)


def scalar_event(time: float, step: int, values: Mapping[str, float]) -> bytes:
    """The figures of a step, float32."""
    summary = b"".join(
        _field(1, _field(1, name.encode()) + _tag(2, _FLOAT) + _float32(value))
        for name, value in values.items()
    )
    return _wall_time(time) + _tag(2, _VARINT) + _varint(step) + _field(5, summary)


def record(message: bytes) -> bytes:
    """A message as the file holds it."""
    length = struct.pack("<Q", len(message))
    return length + _checksum(length) + message + _checksum(message)


def _float32(value: float) -> bytes:
    with np.errstate(over="ignore"):
        return np.asarray(value).astype("<f4").tobytes()


def _wall_time(time: float) -> bytes:
    return _tag(1, _DOUBLE) + struct.pack("<d", time)


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(content)) + content


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> tuple[int, ...]:
    """Remainders of every byte by the Castagnoli polynomial, bits reversed."""
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        entries.append(entry)
    return tuple(entries)


_TABLE = _table()
