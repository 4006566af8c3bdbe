"""RFC 6455 frames: bytes in, messages out; messages in, bytes out. Pure: no I/O, no clock, no randomness.

The parser owns strictness (section 5: masking, RSV bits, opcodes, control frames, fragmentation, UTF-8 in close
reasons) and permessage-deflate (RFC 7692). It is fed whatever the socket gives, and returns every complete message of
it as ``(opcode, payload)``, so that one call serves many messages: at 100 bytes a message, this is what makes reading
cheap. It does not know what a connection is.
"""

from __future__ import annotations

import zlib

import msgspec

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

PROTOCOL_ERROR = 1002
INVALID_DATA = 1007
TOO_BIG = 1009
NO_STATUS = 1005
ABNORMAL = 1006

INFLATED_BYTES = 1024 * 1024
"""After so much that was inflated a `feed` returns: a read of 64 KiB can hold messages of a hundred times that."""

_DEFLATE_TAIL = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.1: stripped by the sender


class FrameError(msgspec.Struct, frozen=True):
    """How the peer broke the protocol: the close `code` that says so on the wire, and what it did."""

    code: int
    detail: str


class Deflate(msgspec.Struct, frozen=True):
    """What was negotiated for permessage-deflate (RFC 7692 section 7.1)."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


def max_deflated(size: int) -> int:
    """Return how large `size` bytes can become when somebody compresses what cannot be compressed.

    The bound of zlib's ``deflateBound`` for any window and memory level (an eighth for fixed codes, a 64th for blocks).
    """
    return size + (size >> 3) + (size >> 6) + 16


class FrameParser:
    """Turns the bytes of a server into messages.

    Args:
        max_message_bytes: The largest message, counted after inflating (compressed, it may be a little larger).
        deflate: What was negotiated, or None when no extension was.

    Attributes:
        failure: Set once the peer has broken the protocol. From then on everything is skipped but a valid close frame.
        peer_close: ``(code, reason)`` of the peer's close frame, once it has come; what follows it is ignored.
        controls: How many pings and pongs were among the messages; whoever takes them out sets it back to 0.
        more: Bytes that were fed are not parsed yet, since what they inflate to is large: feed again, with none if need be.
    """

    def __init__(self, max_message_bytes: int, deflate: Deflate | None = None) -> None:
        self.failure: FrameError | None = None
        self.peer_close: tuple[int, str] | None = None
        self.controls = 0
        self.more = False
        self._inflated = 0  # in this `feed`
        self._max = max_message_bytes
        self._max_deflated = max_deflated(max_message_bytes)
        self._deflate = deflate
        self._inflater = None if deflate is None else zlib.decompressobj(wbits=-15)
        # Bytes, not pieces: what a server sends in tiny ones takes no more memory than the message.
        self._rest = bytearray()  # of a frame that is not complete
        self._need = 2  # bytes before anything more can be parsed
        self._skip = (
            0  # bytes still to come of the payload of a frame that is not wanted, in this `feed` or the next ones
        )
        self._opcode = 0  # of the fragmented message under way; 0: none
        self._compressed = False
        self._parts = bytearray()  # of the fragmented message under way

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes; return the complete messages, pings and pongs in them, in order (not all of them: there is `more`).

        Never raises: what the peer did wrong is in `failure`, after the messages that came before it.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        items: list[tuple[int, bytes]] = []
        self.more, self._inflated = False, 0
        if self.peer_close is not None:
            return items
        pos = self._parse(data, items) if self.failure is None else 0
        if self.failure is not None:
            self._parse_refused(data[pos:])
        return items

    def _parse(self, data: bytes, items: list[tuple[int, bytes]]) -> int:
        """Parse strictly from the start of `data`; return where it stopped: the rest is kept, or refused."""
        pos = 0
        end = len(data)
        limit = self._max
        add = items.append
        while True:
            left = end - pos
            if left < 2:
                self._need = 2
                break
            b0 = data[pos]
            length = data[pos + 1]
            start = pos + 2
            if length >= 126:
                if length & 0x80:
                    return self._refuse(pos, PROTOCOL_ERROR, "a masked frame (RFC 6455 section 5.1)")
                if length == 126:
                    if left < 4:
                        self._need = 4
                        break
                    length = data[pos + 2] << 8 | data[pos + 3]
                    start = pos + 4
                else:
                    if left < 10:
                        self._need = 10
                        break
                    length = int.from_bytes(data[pos + 2 : pos + 10], "big")
                    start = pos + 10
                    if length >> 63:
                        return self._refuse(pos, PROTOCOL_ERROR, "a length with its highest bit set (section 5.2)")
            if b0 == 0x81 or b0 == 0x82:
                # The common case: one whole, uncompressed message.
                if length > limit:
                    return self._refuse(pos, TOO_BIG, f"a message of {length} bytes; maxMessageSize is {limit}")
                if self._opcode:
                    return self._refuse(pos, PROTOCOL_ERROR, "a new message inside a fragmented one (section 5.4)")
                stop = start + length
                if stop > end:
                    self._need = stop - pos
                    break
                add((b0 & 0x0F, data[start:stop]))
                pos = stop
                continue
            wrong = self._check_header(b0, length)
            if wrong is not None:
                return self._refuse(pos, wrong.code, wrong.detail)
            stop = start + length
            if stop > end:
                self._need = stop - pos
                break
            payload = data[start:stop]
            wrong = self._take(b0, payload, items)
            if wrong is not None:
                return self._refuse(stop, wrong.code, wrong.detail)
            pos = stop
            if self.peer_close is not None:
                return pos
            if self._inflated >= INFLATED_BYTES and pos < end:
                self._need, self.more = 2, True
                break
        if pos < end:
            self._rest += data[pos:]
        return end

    def _refuse(self, pos: int, code: int, detail: str) -> int:
        self.failure = FrameError(code, detail)
        self._parts.clear()
        return pos

    def _check_header(self, b0: int, length: int) -> FrameError | None:
        opcode = b0 & 0x0F
        if b0 & 0x30 or (b0 & 0x40 and (self._deflate is None or opcode not in (TEXT, BINARY))):
            return FrameError(PROTOCOL_ERROR, "RSV bits that nothing negotiated (section 5.2)")
        if opcode >= CLOSE:
            if opcode > PONG:
                return FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode:#x} (section 5.2)")
            if not b0 & 0x80:
                return FrameError(PROTOCOL_ERROR, "a fragmented control frame (section 5.5)")
            if length > 125:
                return FrameError(PROTOCOL_ERROR, "a control frame of over 125 bytes (section 5.5)")
            return None
        if opcode > BINARY:
            return FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode:#x} (section 5.2)")
        if opcode == CONTINUATION and not self._opcode:
            return FrameError(PROTOCOL_ERROR, "a continuation of nothing (section 5.4)")
        if opcode != CONTINUATION and self._opcode:
            return FrameError(PROTOCOL_ERROR, "a new message inside a fragmented one (section 5.4)")
        compressed = self._compressed if opcode == CONTINUATION else b0 & 0x40
        if len(self._parts) + length > (self._max_deflated if compressed else self._max):
            return FrameError(TOO_BIG, f"a message of over {self._max} bytes (maxMessageSize)")
        return None

    def _take(self, b0: int, payload: bytes, items: list[tuple[int, bytes]]) -> FrameError | None:
        opcode = b0 & 0x0F
        if opcode >= CLOSE:
            if opcode == CLOSE:
                return self._take_close(payload)
            self.controls += 1
            items.append((opcode, payload))
            return None
        if opcode != CONTINUATION:
            self._opcode = opcode
            self._compressed = bool(b0 & 0x40)
        if not b0 & 0x80:
            self._parts += payload
            return None
        message = bytes(self._parts) + payload if self._parts else payload
        opcode = self._opcode
        self._parts.clear()
        self._opcode = 0
        if self._compressed:
            inflated = self._inflate(message)
            if isinstance(inflated, FrameError):
                return inflated
            message = inflated
        items.append((opcode, message))
        return None

    def _inflate(self, message: bytes) -> bytes | FrameError:
        assert self._deflate is not None and self._inflater is not None, (
            "compressed frames pass _check_header only then"
        )
        inflater = self._inflater
        try:
            # One byte more than allowed tells "too big" from "just fits" without inflating a bomb.
            inflated = inflater.decompress(message + _DEFLATE_TAIL, self._max + 1)
        except zlib.error as exc:
            return FrameError(INVALID_DATA, f"compressed data that cannot be inflated: {exc}")
        if len(inflated) > self._max:
            return FrameError(TOO_BIG, f"a message of over {self._max} bytes after inflating (maxMessageSize)")
        if inflater.unused_data not in (b"", _DEFLATE_TAIL, b"\x00" + _DEFLATE_TAIL):
            # A block marked as the last one (section 7.2.3.4) may end a message; what follows it would be lost silently.
            return FrameError(INVALID_DATA, "compressed data after its last block")
        if self._deflate.server_no_context_takeover or inflater.eof:
            self._inflater = zlib.decompressobj(wbits=-15)
        self._inflated += len(inflated)
        return inflated

    def _take_close(self, payload: bytes) -> FrameError | None:
        parsed = parse_close(payload)
        if isinstance(parsed, FrameError):
            return parsed
        self.peer_close = parsed
        return None

    def _parse_refused(self, data: bytes) -> None:
        """After a failure: skip by the frames' own lengths, without keeping anything, to a close frame that is valid."""
        pos = 0
        end = len(data)
        while True:
            if self._skip:
                step = min(self._skip, end - pos)
                pos += step
                self._skip -= step
            if end - pos < 2:
                self._need = 2
                break
            length = data[pos + 1]
            header = 2 + (4 if length & 0x80 else 0)
            length &= 0x7F
            extended = 2 if length == 126 else 8 if length == 127 else 0
            header += extended
            if end - pos < header:
                self._need = header
                break
            if extended:
                length = int.from_bytes(data[pos + 2 : pos + 2 + extended], "big")
            if data[pos] == 0x88 and header == 2:
                # Whole, unmasked, without RSV bits: the one frame that still counts, if what it says is valid, too.
                if end - pos < header + length:
                    self._need = header + length
                    break
                parsed = parse_close(data[pos + 2 : pos + 2 + length])
                if not isinstance(parsed, FrameError):
                    self.peer_close = parsed
                    return
            pos += header
            self._skip = length
        if pos < end:
            self._rest += data[pos:]


def parse_close(payload: bytes) -> tuple[int, str] | FrameError:
    """Return code and reason of a close frame's payload (RFC 6455 sections 5.5.1, 7.4); 1005 when it has none."""
    if not payload:
        return (NO_STATUS, "")
    if len(payload) == 1:
        return FrameError(PROTOCOL_ERROR, "a close frame of one byte (section 5.5.1)")
    code = payload[0] << 8 | payload[1]
    if not (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) and not 3000 <= code <= 4999:
        return FrameError(PROTOCOL_ERROR, f"close code {code}, which may not be sent (section 7.4)")
    try:
        return (code, payload[2:].decode("utf-8"))
    except UnicodeDecodeError:
        return FrameError(INVALID_DATA, "a close reason that is not UTF-8 (section 5.5.1)")


def close_payload(code: int | None, reason: str = "") -> bytes:
    """Return the payload of a close frame; None makes an empty one. 1005 and 1006 are never put on the wire."""
    if code is None or code in (NO_STATUS, ABNORMAL):
        return b""
    return code.to_bytes(2, "big") + reason.encode("utf-8")


def encode_frame(opcode: int, payload: bytes, mask: bytes, *, compressed: bool = False) -> bytes:
    """Return one whole frame as a client sends it (RFC 6455 section 5.2), masked with the four bytes of `mask`."""
    length = len(payload)
    b0 = 0x80 | opcode | (0x40 if compressed else 0)
    if length < 126:
        header = bytes((b0, 0x80 | length))
    elif length < 65536:
        header = bytes((b0, 0xFE, length >> 8, length & 0xFF))
    else:
        header = bytes((b0, 0xFF)) + length.to_bytes(8, "big")
    # XOR of two whole numbers: linear, and without a byte-wise loop in Python.
    pad = -length % 4
    words = (length + pad) // 4
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(mask * words, "little")
    body = masked.to_bytes(length + pad, "little")
    return header + mask + (body[:length] if pad else body)


class Deflater:
    """Compresses the messages that we send (RFC 7692 section 7.2.1)."""

    def __init__(self, deflate: Deflate) -> None:
        self._deflate = deflate
        self._deflater = zlib.compressobj(wbits=-deflate.client_max_window_bits)

    def compress(self, payload: bytes) -> bytes:
        """Return `payload` compressed, without the tail that the receiver adds again."""
        data = self._deflater.compress(payload) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        if self._deflate.client_no_context_takeover:
            self._deflater = zlib.compressobj(wbits=-self._deflate.client_max_window_bits)
        return data.removesuffix(_DEFLATE_TAIL) if payload else b"\x00"
