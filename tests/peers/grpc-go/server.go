package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var cancelled = make(chan struct{}, 1)

// Every method by its name: each gets the stream, whatever its kind.
var methods = map[string]func(grpc.ServerStream) error{
	"Unary":        unary(behaving(echo)),
	"ServerStream": serverStream,
	"ClientStream": clientStream,
	"Bidi":         bidi,
	"Fail":         unary(failWith),
	"FailMidway":   failMidway,
	"BigTrailers":  unary(bigTrailers),
	"Remaining":    unary(remaining),
	"Metadata":     unary(showMetadata),
	"Slow":         unary(slow),
	"WasCancelled": unary(wasCancelled),
	"Behave":       unary(behave),
	"Seen":         unary(seenSoFar),
	"Via":          unary(via),
	healthCheck:    unary(serving),
}

// The health checking protocol of gRPC.
const healthCheck = "/grpc.health.v1.Health/Check"

func serve(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fail(err)
	}
	server := grpc.NewServer(
		grpc.ForceServerCodec(raw{}),
		grpc.MaxHeaderListSize(headerLimit),
		grpc.UnknownServiceHandler(dispatch),
	)
	fmt.Println("listening")
	fail(server.Serve(remembering{listener}))
}

func dispatch(_ any, stream grpc.ServerStream) error {
	path, _ := grpc.MethodFromServerStream(stream)
	method, ok := methods[strings.TrimPrefix(path, "/"+service+"/")]
	if !ok {
		return status.Error(codes.Unimplemented, "no such method")
	}
	return method(stream)
}

func unary(answer func(grpc.ServerStream, []byte) ([]byte, error)) func(grpc.ServerStream) error {
	return func(stream grpc.ServerStream) error {
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		response, err := answer(stream, request)
		if err != nil {
			return err
		}
		return stream.SendMsg(&response)
	}
}

func echo(stream grpc.ServerStream, request []byte) ([]byte, error) {
	initial := metadata.Pairs("x-initial", "first", "x-bytes-bin", "\x00\xff")
	stream.SetTrailer(metadata.Pairs("x-trailing", "last"))
	return request, stream.SendHeader(initial)
}

// HealthCheckResponse with status SERVING.
func serving(grpc.ServerStream, []byte) ([]byte, error) {
	return []byte{8, 1}, nil
}

func failWith(stream grpc.ServerStream, request []byte) ([]byte, error) {
	code, details, _ := strings.Cut(string(request), ":")
	number, err := strconv.Atoi(code)
	if err != nil {
		return nil, err
	}
	stream.SetTrailer(metadata.Pairs("x-trailing", "failed"))
	return nil, status.Error(codes.Code(number), details)
}

func bigTrailers(stream grpc.ServerStream, request []byte) ([]byte, error) {
	size, err := strconv.Atoi(string(request))
	if err != nil {
		return nil, err
	}
	trailers := metadata.MD{}
	for index := 0; index < 4; index++ {
		trailers.Set(fmt.Sprintf("x-big-%d", index), strings.Repeat("t", size/4))
	}
	stream.SetTrailer(trailers)
	return []byte("ok"), nil
}

func remaining(stream grpc.ServerStream, _ []byte) ([]byte, error) {
	deadline, ok := stream.Context().Deadline()
	if !ok {
		return []byte("-1"), nil
	}
	return []byte(strconv.FormatInt(time.Until(deadline).Milliseconds(), 10)), nil
}

func showMetadata(stream grpc.ServerStream, _ []byte) ([]byte, error) {
	found, _ := metadata.FromIncomingContext(stream.Context())
	pairs := [][2]string{}
	for name, values := range found {
		for _, value := range values {
			pairs = append(pairs, [2]string{name, value})
		}
	}
	return json.Marshal(pairs)
}

func slow(stream grpc.ServerStream, _ []byte) ([]byte, error) {
	select {
	case <-stream.Context().Done():
		cancelled <- struct{}{}
		return nil, status.FromContextError(stream.Context().Err()).Err()
	case <-time.After(30 * time.Second):
		return []byte("late"), nil
	}
}

func wasCancelled(stream grpc.ServerStream, _ []byte) ([]byte, error) {
	ctx, stop := context.WithTimeout(stream.Context(), 10*time.Second)
	defer stop()
	select {
	case <-cancelled:
		return []byte("yes"), nil
	case <-ctx.Done():
		return []byte("no"), nil
	}
}

func serverStream(stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	count, err := strconv.Atoi(string(request))
	if err != nil {
		return err
	}
	for index := 0; index < count; index++ {
		item := []byte(fmt.Sprintf("item %d", index))
		if err := stream.SendMsg(&item); err != nil {
			return err
		}
	}
	return nil
}

func clientStream(stream grpc.ServerStream) error {
	count, size := 0, 0
	for {
		var request []byte
		err := stream.RecvMsg(&request)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		count++
		size += len(request)
	}
	answer := []byte(fmt.Sprintf("%d messages, %d bytes", count, size))
	return stream.SendMsg(&answer)
}

func bidi(stream grpc.ServerStream) error {
	for {
		var request []byte
		err := stream.RecvMsg(&request)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		answer := append([]byte("echo "), request...)
		if err := stream.SendMsg(&answer); err != nil {
			return err
		}
	}
}

func failMidway(stream grpc.ServerStream) error {
	for count := 0; ; count++ {
		var request []byte
		err := stream.RecvMsg(&request)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if count == 2 {
			return status.Error(codes.DataLoss, "after two")
		}
		if err := stream.SendMsg(&request); err != nil {
			return err
		}
	}
}
