"""Writes HTTP/2 frames that no library would, and tells what comes back.

    h2_raw.py PORT [CERTIFICATE KEY] < STEPS

Without a certificate over plain TCP, with one over TLS. STEPS is a JSON list; each step is one of
    {"headers": [[name, value], ...], "stream": 1, "end": true, "split": 0}
    {"data": "text", "stream": 1, "end": true}        {"repeat": N, "hex": "..."}
    {"reset": 1, "code": 8}        {"hex": "..."} (bytes as they are)
    {"read": "STREAM THAT ENDS"}        {"read": STREAM, "until": "data"} (until some comes)
    {"window": 1, "by": 65535}
Prints one line of JSON for each frame that came, then {"end": "closed" | "timeout"}.
"""

import json
import socket
import ssl
import sys

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Peer:
    def __init__(self, port, certificate=None, key=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            context.load_cert_chain(certificate, key)
            self.socket = context.wrap_socket(self.socket)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.buffer = b""
        self.block = b""
        self.send(PREFACE + SettingsFrame(settings={}).serialize())

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def headers(self, step):
        # Never indexed: the peer's table must not matter to what is tested.
        fields = [hpack.HeaderTuple(name, value) for name, value in step["headers"]]
        block = self.encoder.encode(fields)
        flags = ["END_STREAM"] if step.get("end") else []
        stream = step.get("stream", 1)
        split = step.get("split") or 16000
        parts = [block[at : at + split] for at in range(0, len(block), split)] or [b""]
        first = HeadersFrame(stream, parts[0], flags=flags)
        if len(parts) == 1:
            first.flags.add("END_HEADERS")
        frames = [first]
        for index, part in enumerate(parts[1:]):
            frame = ContinuationFrame(stream, part)
            if index == len(parts) - 2:
                frame.flags.add("END_HEADERS")
            frames.append(frame)
        self.send(b"".join(frame.serialize() for frame in frames))

    def run(self, step):
        if "headers" in step:
            self.headers(step)
        elif "data" in step:
            flags = ["END_STREAM"] if step.get("end") else []
            self.send(DataFrame(step.get("stream", 1), step["data"].encode(), flags=flags).serialize())
        elif "reset" in step:
            self.send(RstStreamFrame(step["reset"], error_code=step.get("code", 8)).serialize())
        elif "window" in step:
            frame = WindowUpdateFrame(step["window"], window_increment=step["by"])
            self.send(frame.serialize())
        elif "hex" in step:
            self.send(bytes.fromhex(step["hex"]) * step.get("repeat", 1))
        elif "read" in step:
            self.read(step["read"], step.get("until") == "data")

    def frame(self):
        """The next frame, or None when the peer has closed."""
        while True:
            if len(self.buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
                if len(self.buffer) >= 9 + length:
                    frame.parse_body(memoryview(self.buffer[9 : 9 + length]))
                    self.buffer = self.buffer[9 + length :]
                    return frame
            data = self.socket.recv(65536)
            if not data:
                return None
            self.buffer += data

    def read(self, until, data=False):
        """Prints frames until the stream `until` has ended (0: until the connection has), or has data."""
        try:
            while True:
                frame = self.frame()
                if frame is None:
                    return self.say(end="closed")
                done = self.tell(frame) or (data and isinstance(frame, DataFrame))
                if done and frame.stream_id == until:
                    return None
        except TimeoutError:
            return self.say(end="timeout")
        except OSError as error:
            return self.say(end="closed", error=str(error))

    def tell(self, frame):
        """Prints a frame; true when it is the last of its stream."""
        stream = frame.stream_id
        ended = "END_STREAM" in frame.flags
        if isinstance(frame, (HeadersFrame, ContinuationFrame)):
            self.block += frame.data
            if "END_HEADERS" in frame.flags:
                fields = [
                    [as_text(name), as_text(value)]
                    for name, value in self.decoder.decode(self.block, raw=True)
                ]
                self.block = b""
                self.say(stream=stream, headers=fields, ended=ended)
        elif isinstance(frame, DataFrame):
            self.say(stream=stream, data=as_text(frame.data), ended=ended)
            if frame.flow_controlled_length:
                for target in (0, stream):
                    update = WindowUpdateFrame(
                        target, window_increment=frame.flow_controlled_length
                    )
                    self.send(update.serialize())
        elif isinstance(frame, RstStreamFrame):
            self.say(stream=stream, reset=frame.error_code)
            ended = True
        elif isinstance(frame, GoAwayFrame):
            self.say(goaway=frame.error_code, last=frame.last_stream_id)
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(flags=["ACK"]).serialize())
            self.say(settings={str(key): value for key, value in frame.settings.items()})
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.send(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
        return ended

    @staticmethod
    def say(**told):
        print(json.dumps(told), flush=True)


def as_text(data):
    return bytes(data).decode("latin-1")


def main():
    try:
        peer = Peer(int(sys.argv[1]), *sys.argv[2:4])
    except OSError as error:
        print(json.dumps({"end": "refused", "error": str(error)}))
        return
    for step in json.load(sys.stdin):
        peer.run(step)


main()
