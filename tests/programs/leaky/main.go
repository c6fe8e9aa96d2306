// Leaky is a small HTTP service on loopback that loses goroutines the way real ones do, with its own clients.
//
// `GET /lookup` asks a slow backend in a goroutine and gives up when its client does; the goroutine then stays for
// ever, blocked on sending an answer that nobody receives. Everything else about the service is healthy: a pool of
// thumbnail workers, a page put together by several goroutines, a cache refreshed by a ticker, sessions ended by
// timers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	lasts := flag.Duration("for", 0, "how long to run (0: until SIGTERM)")
	leakEvery := flag.Duration("leak-every", 400*time.Millisecond, "how often a client gives up too early")
	clients := flag.Int("clients", 8, "how many well-behaved clients there are")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *lasts > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *lasts)
		defer cancel()
	}
	if err := run(ctx, *clients, *leakEvery); err != nil {
		fmt.Fprintln(os.Stderr, "leaky:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, clients int, leakEvery time.Duration) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := NewServer(ctx)
	httpServer := &http.Server{Handler: server.Routes()}
	served := make(chan error, 1)
	go func() { served <- httpServer.Serve(listener) }()

	url := "http://" + listener.Addr().String()
	fmt.Printf("serving on %s, pid %d\n", url, os.Getpid())
	for i := 0; i < clients; i++ {
		go browse(ctx, url, i)
	}
	go giveUpEarly(ctx, url, leakEvery)

	select {
	case <-ctx.Done():
	case err := <-served:
		return err
	}
	shutdown, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := httpServer.Shutdown(shutdown); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	fmt.Printf("lost %d goroutines on the way\n", server.abandoned.Load())
	return nil
}
