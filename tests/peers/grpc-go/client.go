package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// answer is the line that is printed for a call.
type answer struct {
	Case     string            `json:"case"`
	Code     uint32            `json:"code"`
	Details  string            `json:"details"`
	Messages []string          `json:"messages"`
	Initial  map[string]string `json:"initial"`
	Trailing map[string]string `json:"trailing"`
}

// One call that is being made.
type exchange struct {
	stream  grpc.ClientStream
	answers []string
}

var both = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

var cases = map[string]struct {
	method string
	talk   func(*exchange, string) error
}{
	"unary":         {"Unary", one},
	"large":         {"Unary", large},
	"server_stream": {"ServerStream", one},
	"client_stream": {"ClientStream", clientMany},
	"bidi":          {"Bidi", turns},
	"fail":          {"Fail", one},
	"fail_midway":   {"FailMidway", burst},
	"big_trailers":  {"BigTrailers", one},
	"remaining":     {"Remaining", empty},
	"metadata":      {"Metadata", empty},
	"deadline":      {"Slow", empty},
	"was_cancelled": {"WasCancelled", one},
	"unknown":       {"NoSuchMethod", one},
	"behave":        {"Behave", one},
	"seen":          {"Seen", empty},
	"via":           {"Via", one},
	"via_for":       {"Via", viaRemaining},
	"health":        {healthCheck, empty},
}

func dial(address, authority string) *grpc.ClientConn {
	channel, err := grpc.Dial(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority),
		grpc.WithNoProxy(),
		grpc.WithMaxHeaderListSize(headerLimit),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		fail(err)
	}
	return channel
}

func call(address, authority string, calls []string) {
	channel := dial(address, authority)
	defer channel.Close()
	for _, text := range calls {
		name, argument, _ := strings.Cut(text, ":")
		if err := json.NewEncoder(os.Stdout).Encode(answerTo(channel, name, argument)); err != nil {
			fail(err)
		}
	}
}

func answerTo(channel *grpc.ClientConn, name, argument string) answer {
	chosen, ok := cases[name]
	if !ok {
		fail("no case " + name)
	}
	limit := 20 * time.Second
	if name == "deadline" || name == "remaining" || name == "via_for" {
		seconds, err := strconv.ParseFloat(argument, 64)
		if err != nil {
			fail(err)
		}
		limit = time.Duration(seconds * float64(time.Second))
	}
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	if name == "metadata" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-asked", argument)
	}
	told := answer{Case: name, Messages: []string{}}
	path := chosen.method
	if !strings.HasPrefix(path, "/") {
		path = "/" + service + "/" + path
	}
	stream, err := channel.NewStream(ctx, both, path)
	if err == nil {
		talk := &exchange{stream: stream, answers: []string{}}
		err = chosen.talk(talk, argument)
		told.Messages = talk.answers
		initial, _ := stream.Header()
		told.Initial = flat(initial)
		told.Trailing = flat(stream.Trailer())
	}
	if err == io.EOF {
		err = nil
	}
	told.Code = uint32(status.Code(err))
	told.Details = status.Convert(err).Message()
	return told
}

func flat(found metadata.MD) map[string]string {
	pairs := map[string]string{}
	for name, values := range found {
		value := values[len(values)-1]
		if strings.HasSuffix(name, "-bin") {
			value = hex.EncodeToString([]byte(value))
		}
		pairs[name] = value
	}
	return pairs
}

func (talk *exchange) send(text string) error {
	message := []byte(text)
	return talk.stream.SendMsg(&message)
}

func (talk *exchange) receive() error {
	var message []byte
	if err := talk.stream.RecvMsg(&message); err != nil {
		return err
	}
	talk.answers = append(talk.answers, string(message))
	return nil
}

// rest reads answers to the end; how the call ended is the error, io.EOF for OK.
func (talk *exchange) rest() error {
	for {
		if err := talk.receive(); err != nil {
			return err
		}
	}
}

// An error of sending says less than what receiving tells next.
func (talk *exchange) finish() error {
	_ = talk.stream.CloseSend()
	return talk.rest()
}

func one(talk *exchange, argument string) error {
	_ = talk.send(argument)
	return talk.finish()
}

func empty(talk *exchange, _ string) error {
	return one(talk, "")
}

func viaRemaining(talk *exchange, _ string) error {
	return one(talk, "Remaining")
}

func large(talk *exchange, argument string) error {
	size, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	err = one(talk, strings.Repeat("m", size))
	for index, message := range talk.answers {
		talk.answers[index] = strconv.Itoa(len(message))
	}
	return err
}

func clientMany(talk *exchange, argument string) error {
	count, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	for index := 0; index < count; index++ {
		if talk.send(strings.Repeat("x", 1000)) != nil {
			break
		}
	}
	return talk.finish()
}

// Each request is sent only after the answer to the one before.
func turns(talk *exchange, argument string) error {
	count, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	for index := 0; index < count; index++ {
		_ = talk.send(fmt.Sprint(index))
		if err := talk.receive(); err != nil {
			return err
		}
	}
	return talk.finish()
}

func burst(talk *exchange, argument string) error {
	count, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	for index := 0; index < count; index++ {
		if talk.send(fmt.Sprint(index)) != nil {
			break
		}
	}
	return talk.finish()
}
