package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// browse is one well-behaved client: it waits for every answer.
func browse(ctx context.Context, url string, client int) {
	paths := []string{"/page", "/thumbnail?name=gopher", "/lookup?key=fast"}
	for i := 0; ctx.Err() == nil; i++ {
		get(ctx, url+paths[(client+i)%len(paths)])
		pause(ctx, 10*time.Millisecond)
	}
}

// giveUpEarly is the client that costs the service a goroutine each time.
func giveUpEarly(ctx context.Context, url string, every time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		impatient, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		get(impatient, fmt.Sprintf("%s/lookup?key=slow-%d", url, i))
		cancel()
		pause(ctx, every)
	}
}

// get throws the answer away; a client that gives up is no error here.
func get(ctx context.Context, url string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
