// A gRPC server and client on grpc-go. Messages are plain bytes, so nothing has to be generated.
//
//	grpc-go server --port PORT
//	grpc-go client --port PORT --authority NAME CASE[:ARGUMENT]...
//
// It does exactly what ../grpc_peer.py does.
package main

import (
	"flag"
	"fmt"
	"os"
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
	port := flags.Int("port", 0, "on loopback")
	authority := flags.String("authority", "", "of the Service")
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", *port)
	if os.Args[1] == "server" {
		serve(address)
	} else {
		call(address, *authority, flags.Args())
	}
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(1)
}
