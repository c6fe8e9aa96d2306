package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"time"
)

func init() {
	leaky("body-not-closed", "response-body", bodyNotClosed, "main.fetchPrices", "main.bodyNotClosed")
	leaky("body-not-closed-on-error", "response-body", bodyNotClosedOnError, "main.checkout", "main.bodyNotClosedOnError")
	leaky("transport-per-request", "idle-connection", transportPerRequest, "main.transportPerRequest", "main.lookUp", "main.readAll")
	leaky("handler-stuck-upstream", "stuck-upstream", handlerStuckUpstream, "main.proxyTo", "main.handlerStuckUpstream")
	leaky("read-without-deadline", "network-read", readWithoutDeadline, "main.readWithoutDeadline", "main.serveConn")
	leaky("pipe-reader", "network-read", pipeReader, "main.pipeReader", "main.tail")
	leaky("writer-to-slow-client", "network-read", writerToSlow, "main.writerToSlow", "main.push")
	leaky("io-pipe-not-closed", "stuck-select", ioPipe, "main.ioPipe", "main.encode")
	leaky("spinners", "spinning", spinners, "main.spinners", "main.spin")

	healthy("http-keep-alive", httpKeepAlive)
	healthy("http-server-idle-clients", httpIdleClients)
	healthy("http-load", httpLoad)
	healthy("http-streaming", httpStreaming)
	healthy("slow-upstream-with-timeout", slowUpstream)
	healthy("tcp-sessions", tcpSessions)
	healthy("tcp-idle-clients", tcpIdleClients)
	healthy("accept-loops", acceptLoops)
}

// page is more than the transport reads ahead.
var page = make([]byte, 64<<10)

func server(handler http.HandlerFunc) *httptest.Server { return httptest.NewServer(handler) }

func fetchPrices(url string) {
	response, err := http.Get(url)
	if err != nil {
		return
	}
	_ = response.StatusCode // and no Close
}

func bodyNotClosed() {
	s := server(func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	every(500*time.Millisecond, func() { fetchPrices(s.URL) })
}

func checkout(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return io.ErrUnexpectedEOF // and no Close
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func readAll(client *http.Client, url string) {
	response, err := client.Get(url)
	if err != nil {
		return
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
}

func bodyNotClosedOnError() {
	n := 0
	s := server(func(w http.ResponseWriter, r *http.Request) {
		if n++; n%3 == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		w.Write(page)
	})
	client := &http.Client{Timeout: time.Hour}
	every(300*time.Millisecond, func() { checkout(client, s.URL) })
	healthyServer := server(func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	every(50*time.Millisecond, func() { readAll(client, healthyServer.URL) })
}

func lookUp(url string) {
	client := &http.Client{Transport: &http.Transport{}}
	readAll(client, url)
}

func transportPerRequest() {
	s := server(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
	every(400*time.Millisecond, func() { lookUp(s.URL) })
}

func proxyTo(upstream string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		response, err := http.Get(upstream)
		if err != nil {
			return
		}
		defer response.Body.Close()
		io.Copy(w, response.Body)
	}
}

func handlerStuckUpstream() {
	dead := server(func(w http.ResponseWriter, r *http.Request) { select {} })
	_ = dead
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		// It takes connections and says nothing.
		for {
			if c, err := listener.Accept(); err == nil {
				keep = append(keep, c)
			}
		}
	}()
	front := server(proxyTo("http://" + listener.Addr().String()))
	client := &http.Client{Timeout: 200 * time.Millisecond}
	every(500*time.Millisecond, func() { readAll(client, front.URL) })
}

func serveConn(c net.Conn) {
	bufio.NewReader(c).ReadString('\n')
	c.Close()
}

func readWithoutDeadline() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go serveConn(c)
		}
	}()
	every(400*time.Millisecond, func() {
		if c, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			keep = append(keep, c) // a client that is never heard of again
		}
	})
}

func tail(f *os.File) { io.Copy(io.Discard, f) }

func pipeReader() {
	every(400*time.Millisecond, func() {
		r, w, err := os.Pipe()
		if err != nil {
			return
		}
		keep = append(keep, w)
		go tail(r)
	})
}

func push(c net.Conn) {
	for {
		if _, err := c.Write(page); err != nil {
			return
		}
	}
}

func writerToSlow() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go push(c)
		}
	}()
	every(700*time.Millisecond, func() {
		if c, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			keep = append(keep, c)
		}
	})
}

func encode(w *io.PipeWriter) {
	w.Write(page)
	w.Close()
}

func ioPipe() {
	every(400*time.Millisecond, func() {
		r, w := io.Pipe()
		go encode(w)
		io.ReadFull(r, make([]byte, 16)) // and no Close
	})
}

func spin(stop *bool) {
	for !*stop {
		time.Sleep(time.Microsecond)
	}
}

func spinners() {
	n := 0
	every(3*time.Second, func() {
		if n++; n < 25 {
			go spin(new(bool))
		}
	})
}

// --- healthy ---

func httpKeepAlive() {
	s := server(func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	for i := 0; i < 50; i++ {
		go readAll(client, s.URL)
	}
	every(time.Second, func() { readAll(client, s.URL) })
}

func httpIdleClients() {
	s := server(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("ok")) })
	clients := 0
	every(500*time.Millisecond, func() {
		if clients++; clients < 100 {
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			if err == nil {
				keep = append(keep, c)
			}
		}
	})
}

func httpLoad() {
	s := server(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		w.Write(page)
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20}}
	for i := 0; i < 20; i++ {
		every(40*time.Millisecond, func() { readAll(client, s.URL) })
	}
}

// httpStreaming has answers that go on and are read.
func httpStreaming() {
	s := server(func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write([]byte("event\n")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(3 * time.Second)
		}
	})
	for i := 0; i < 10; i++ {
		go readAll(http.DefaultClient, s.URL)
	}
}

func slowUpstream() {
	s := server(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(30 * time.Second):
		}
	})
	client := &http.Client{Timeout: 5 * time.Second}
	every(300*time.Millisecond, func() { go readAll(client, s.URL) })
}

func tcpSessions() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
				}
			}()
		}
	}()
	every(400*time.Millisecond, func() {
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for i := 0; i < 8; i++ {
				c.Write([]byte("hello\n"))
				time.Sleep(time.Second)
			}
		}()
	})
}

func tcpIdleClients() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go serveConn(c)
		}
	}()
	for i := 0; i < 30; i++ {
		if c, err := net.Dial("tcp", listener.Addr().String()); err == nil {
			keep = append(keep, c)
		}
	}
}

func acceptLoops() {
	for i := 0; i < 5; i++ {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		go func() {
			for {
				if _, err := listener.Accept(); err != nil {
					return
				}
			}
		}()
	}
	ctx, cancel := context.WithCancel(context.Background())
	keep = append(keep, cancel)
	go func() { <-ctx.Done() }()
}
