"""A gRPC server and client on grpcio. Messages are plain bytes, so nothing has to be generated.

    grpc_peer.py server [--host ADDRESS] --port PORT
    grpc_peer.py client [--host NAME] --port PORT [--authority NAME] CASE[:ARGUMENT]...

The client makes the calls one after the other over one channel, and prints one line of JSON for each.
The Go peer does exactly the same.
"""

import argparse
import json
import queue
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "outrider.test.Echo"
LIMIT = 96 * 1024
OPTIONS = [("grpc.max_metadata_size", LIMIT), ("grpc.absolute_max_metadata_size", LIMIT)]


def unary(request, context):
    context.send_initial_metadata((("x-initial", "first"), ("x-bytes-bin", b"\x00\xff")))
    context.set_trailing_metadata((("x-trailing", "last"),))
    return request


def server_stream(request, context):
    for index in range(int(request)):
        yield b"item %d" % index


def client_stream(requests, context):
    sizes = [len(request) for request in requests]
    return b"%d messages, %d bytes" % (len(sizes), sum(sizes))


def bidi(requests, context):
    for request in requests:
        yield b"echo " + request


def fail(request, context):
    code, _, details = request.decode().partition(":")
    context.set_trailing_metadata((("x-trailing", "failed"),))
    context.abort(by_number(int(code)), details)


def fail_midway(requests, context):
    for count, request in enumerate(requests):
        if count == 2:
            context.abort(grpc.StatusCode.DATA_LOSS, "after two")
        yield request


def big_trailers(request, context):
    size = int(request) // 4
    context.set_trailing_metadata([("x-big-%d" % index, "t" * size) for index in range(4)])
    return b"ok"


def remaining(request, context):
    return b"%d" % int((context.time_remaining() or -1) * 1000)


def metadata(request, context):
    pairs = [[key, str(value)] for key, value in context.invocation_metadata()]
    return json.dumps(pairs).encode()


CANCELLED = threading.Event()


def slow(request, context):
    context.add_callback(CANCELLED.set)
    CANCELLED.wait(30)
    return b"late"


def was_cancelled(request, context):
    return b"yes" if CANCELLED.wait(10) else b"no"


def by_number(number):
    return next(code for code in grpc.StatusCode if code.value[0] == number)


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailMidway": grpc.stream_stream_rpc_method_handler(fail_midway),
    "BigTrailers": grpc.unary_unary_rpc_method_handler(big_trailers),
    "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
}


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, HANDLERS),))
    server.add_insecure_port(address)
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def pairs(found):
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in found or ()}


class Caller:
    def __init__(self, channel):
        self.channel = channel

    def run(self, case, argument):
        """The answer to one call, as a dictionary."""
        kind, _, method = self.CASES[case].partition(" ")
        call = getattr(self.channel, kind)("/%s/%s" % (SERVICE, method))
        messages = []
        answer = getattr(self, case)(call, argument.encode(), messages)
        code = answer.code()
        return {
            "case": case,
            "code": code.value[0],
            "details": answer.details() or "",
            "messages": [message.decode(errors="replace") for message in messages],
            "initial": pairs(answer.initial_metadata()),
            "trailing": pairs(answer.trailing_metadata()),
        }

    CASES = {
        "unary": "unary_unary Unary",
        "large": "unary_unary Unary",
        "server_stream": "unary_stream ServerStream",
        "client_stream": "stream_unary ClientStream",
        "bidi": "stream_stream Bidi",
        "fail": "unary_unary Fail",
        "fail_midway": "stream_stream FailMidway",
        "big_trailers": "unary_unary BigTrailers",
        "remaining": "unary_unary Remaining",
        "metadata": "unary_unary Metadata",
        "deadline": "unary_unary Slow",
        "was_cancelled": "unary_unary WasCancelled",
        "unknown": "unary_unary NoSuchMethod",
    }

    @staticmethod
    def one(call, request, messages, **options):
        try:
            message, answer = call.with_call(request, timeout=options.pop("timeout", 20), **options)
            messages.append(message)
            return answer
        except grpc.RpcError as error:
            return error

    @staticmethod
    def many(answers, messages):
        try:
            for message in answers:
                messages.append(message)
        except grpc.RpcError:
            pass
        return answers

    def unary(self, call, argument, messages):
        return self.one(call, argument, messages)

    fail = big_trailers = unknown = was_cancelled = unary

    def large(self, call, argument, messages):
        """A message of that many bytes; the answer's length is what is told."""
        answer = self.one(call, b"m" * int(argument), messages)
        messages[:] = [b"%d" % len(message) for message in messages]
        return answer

    def metadata(self, call, argument, messages):
        return self.one(call, b"", messages, metadata=(("x-asked", argument.decode()),))

    def remaining(self, call, argument, messages):
        return self.one(call, b"", messages, timeout=float(argument))

    def deadline(self, call, argument, messages):
        return self.one(call, b"", messages, timeout=float(argument))

    def server_stream(self, call, argument, messages):
        return self.many(call(argument, timeout=20), messages)

    def client_stream(self, call, argument, messages):
        requests = (b"x" * 1000 for _ in range(int(argument)))
        return self.one(call, requests, messages)

    def bidi(self, call, argument, messages):
        """Each request is sent only after the answer to the one before."""
        to_send = queue.Queue()
        answers = call(iter(to_send.get, None), timeout=20)
        try:
            for index in range(int(argument)):
                to_send.put(b"%d" % index)
                messages.append(next(answers))
        except (grpc.RpcError, StopIteration):
            pass
        to_send.put(None)
        return self.many(answers, messages)

    def fail_midway(self, call, argument, messages):
        requests = (b"%d" % index for index in range(int(argument)))
        return self.many(call(requests, timeout=20), messages)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["server", "client"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--authority")
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_intermixed_args()
    address = "%s:%d" % (arguments.host, arguments.port)
    if arguments.mode == "server":
        serve(address)
        return
    options = OPTIONS + [("grpc.enable_http_proxy", 0)]
    if arguments.authority:
        options.append(("grpc.default_authority", arguments.authority))
    with grpc.insecure_channel(address, options=options) as channel:
        caller = Caller(channel)
        for case in arguments.cases:
            name, _, argument = case.partition(":")
            json.dump(caller.run(name, argument), sys.stdout)
            print(flush=True)


main()
