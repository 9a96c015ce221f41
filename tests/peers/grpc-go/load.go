package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/status"
)

// load calls Unary so many times a second, answered or not, and prints "CODE MICROSECONDS DETAILS" as each call ends.
func load(address, authority string, rate int) {
	channel := dial(address, authority)
	defer channel.Close()
	lines := make(chan string, 1024)
	go func() {
		for range time.Tick(time.Second / time.Duration(rate)) {
			go func() {
				begin := time.Now()
				ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
				defer stop()
				request, answer := []byte("load"), []byte{}
				err := channel.Invoke(ctx, "/"+service+"/Unary", &request, &answer)
				took := time.Since(begin).Microseconds()
				lines <- fmt.Sprintf("%d %d %q", status.Code(err), took, status.Convert(err).Message())
			}()
		}
	}()
	for line := range lines {
		fmt.Println(line)
	}
}
