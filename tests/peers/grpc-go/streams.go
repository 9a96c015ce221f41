package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// streams sends messages on so many streams of Bidi, each when the one before it has come back, and prints how many
// came back.
func streams(address, authority string, count int, period time.Duration) {
	channel := dial(address, authority)
	defer channel.Close()
	end := time.Now().Add(period)
	var back atomic.Int64
	var all sync.WaitGroup
	for number := 0; number < count; number++ {
		all.Add(1)
		go func() {
			defer all.Done()
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			description := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
			stream, err := channel.NewStream(ctx, description, "/"+service+"/Bidi")
			if err != nil {
				fail(err)
			}
			message, answer := make([]byte, 64), []byte{}
			for time.Now().Before(end) {
				if err := stream.SendMsg(&message); err != nil {
					fail(err)
				}
				if err := stream.RecvMsg(&answer); err != nil {
					fail(err)
				}
				back.Add(1)
			}
		}()
	}
	all.Wait()
	fmt.Println(back.Load())
}
