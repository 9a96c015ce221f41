"""A sidecar with nothing but sockets: takes over connections on a port as they are (TPROXY), and
speaks to their destination from their client's address. argv: PORT and the UID that its sockets are to
have; it must have been started as root."""

import ctypes
import socket
import sys
import threading

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75


def transparent(family):
    sock = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def carry(client, peer):
    app = transparent(client.family)
    app.bind((peer[0], 0))
    app.settimeout(5)
    app.connect(client.getsockname()[:2])
    threading.Thread(target=pump, args=(client, app), daemon=True).start()
    print("carried", flush=True)
    pump(app, client)


def listen(family, port):
    listener = transparent(family)
    listener.bind(("" if family == socket.AF_INET else "::", port))
    listener.listen(64)
    return listener


def serve(listener):
    while True:
        client, peer = listener.accept()
        threading.Thread(target=carry, args=(client, peer), daemon=True).start()


port = int(sys.argv[1])
# A socket has the user of the file system, which takes no capability of networks away.
ctypes.CDLL(None).setfsuid(int(sys.argv[2]))
ipv4, ipv6 = listen(socket.AF_INET, port), listen(socket.AF_INET6, port)
print("listening", flush=True)
threading.Thread(target=serve, args=(ipv6,), daemon=True).start()
serve(ipv4)
