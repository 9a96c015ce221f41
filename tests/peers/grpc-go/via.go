package main

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// next is where Via calls; nil without --next.
var next *grpc.ClientConn

// What an app hands on from the call that it serves; grpc-go hands on the deadline by itself.
var handedOn = []string{"traceparent", "tracestate"}

// via makes the call that the request names, METHOD, on behalf of the call that it serves.
func via(stream grpc.ServerStream, request []byte) ([]byte, error) {
	if next == nil {
		return nil, status.Error(codes.FailedPrecondition, "no --next")
	}
	ctx := stream.Context()
	found, _ := metadata.FromIncomingContext(ctx)
	for _, name := range handedOn {
		for _, value := range found.Get(name) {
			ctx = metadata.AppendToOutgoingContext(ctx, name, value)
		}
	}
	empty, answer := []byte{}, []byte{}
	err := next.Invoke(ctx, "/"+service+"/"+string(request), &empty, &answer, grpc.WaitForReady(true))
	return answer, err
}
