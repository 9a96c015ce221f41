package main

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// How Unary answers, told by Behave: "ok", "status CODE", "delay MILLISECONDS", "hang",
// "reset".
var (
	behaviour atomic.Pointer[string]
	// How often Unary was called.
	seen atomic.Int64
	// Closed when the behaviour changes; guarded by changing.
	changed  = make(chan struct{})
	changing sync.Mutex
)

func behave(_ grpc.ServerStream, request []byte) ([]byte, error) {
	text := string(request)
	changing.Lock()
	defer changing.Unlock()
	behaviour.Store(&text)
	close(changed)
	changed = make(chan struct{})
	return request, nil
}

func seenSoFar(grpc.ServerStream, []byte) ([]byte, error) {
	return []byte(strconv.FormatInt(seen.Load(), 10)), nil
}

// behaving is answer, unless it was told to do otherwise.
func behaving(answer func(grpc.ServerStream, []byte) ([]byte, error)) func(grpc.ServerStream, []byte) ([]byte, error) {
	return func(stream grpc.ServerStream, request []byte) ([]byte, error) {
		seen.Add(1)
		for {
			changing.Lock()
			wake := changed
			now := behaviour.Load()
			changing.Unlock()
			if now == nil {
				return answer(stream, request)
			}
			name, argument, _ := strings.Cut(*now, " ")
			number, _ := strconv.Atoi(argument)
			switch name {
			case "status":
				return nil, status.Error(codes.Code(number), "as it was told")
			case "delay":
				time.Sleep(time.Duration(number) * time.Millisecond)
			case "reset":
				return nil, reset(stream)
			case "hang":
				select {
				case <-wake:
					continue
				case <-stream.Context().Done():
					return nil, stream.Context().Err()
				}
			}
			return answer(stream, request)
		}
	}
}

// Connections by the address of the peer, so that one can be reset.
var connections sync.Map

type remembering struct{ net.Listener }

func (listener remembering) Accept() (net.Conn, error) {
	connection, err := listener.Listener.Accept()
	if err == nil {
		connections.Store(connection.RemoteAddr().String(), connection)
	}
	return connection, err
}

// reset ends the stream's connection with a RST.
func reset(stream grpc.ServerStream) error {
	from, _ := peer.FromContext(stream.Context())
	if connection, ok := connections.LoadAndDelete(from.Addr.String()); ok {
		_ = connection.(*net.TCPConn).SetLinger(0)
		_ = connection.(net.Conn).Close()
	}
	return status.Error(codes.Unavailable, "reset")
}
