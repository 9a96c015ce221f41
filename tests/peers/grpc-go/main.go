// A gRPC server and client on grpc-go. Messages are plain bytes, so nothing has to be generated.
//
//	grpc-go server [--host ADDRESS] --port PORT [--next PORT --authority NAME]
//	grpc-go client [--host NAME] --port PORT [--authority NAME] CASE[:ARGUMENT]...
//	grpc-go load --port PORT --authority NAME --rate N
//	grpc-go streams --port PORT --authority NAME --streams N --milliseconds N
//
// It does exactly what ../grpc_peer.py does, and more: its server can be made slow or failing (behave.go) and
// be a hop in a chain (via.go), it can call at a steady rate (load.go), and keep streams busy (streams.go).
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

const service = "outrider.test.Echo"

// What both sides take of metadata, bytes.
const headerLimit = 96 * 1024

// raw is the codec: a message is its bytes.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) {
	return *message.(*[]byte), nil
}

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "proto" }

func main() {
	if len(os.Args) < 2 {
		fail("server or client?")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	host := flags.String("host", "127.0.0.1", "where to listen, or whom to call")
	port := flags.Int("port", 0, "of that host")
	authority := flags.String("authority", "", "of the Service that is called; empty: the host")
	nextPort := flags.Int("next", 0, "on loopback, where Via calls")
	rate := flags.Int("rate", 100, "calls a second")
	count := flags.Int("streams", 1, "that are open at once")
	period := flags.Int("milliseconds", 1000, "how long they are kept busy")
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	address := net.JoinHostPort(*host, strconv.Itoa(*port))
	switch os.Args[1] {
	case "server":
		if *nextPort != 0 {
			next = dial(fmt.Sprintf("127.0.0.1:%d", *nextPort), *authority)
		}
		serve(address)
	case "load":
		load(address, *authority, *rate)
	case "streams":
		streams(address, *authority, *count, time.Duration(*period)*time.Millisecond)
	default:
		call(address, *authority, flags.Args())
	}
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}
