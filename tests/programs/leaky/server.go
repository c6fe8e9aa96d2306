package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Server answers lookups, pages and thumbnails.
type Server struct {
	thumbnails chan thumbnail
	sessions   atomic.Int64
	abandoned  atomic.Int64 // lookups whose client did not wait

	mu    sync.Mutex
	cache map[string]string
}

type thumbnail struct {
	name string
	done chan<- string
}

// NewServer starts the server's workers, which end with ctx.
func NewServer(ctx context.Context) *Server {
	s := &Server{thumbnails: make(chan thumbnail), cache: map[string]string{}}
	for i := 0; i < 4; i++ {
		go s.thumbnailWorker(ctx)
	}
	go s.refreshCache(ctx)
	return s
}

// Routes maps paths to what answers them.
func (s *Server) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/lookup", s.handleLookup)
	mux.HandleFunc("/page", s.handlePage)
	mux.HandleFunc("/thumbnail", s.handleThumbnail)
	return mux
}

func (s *Server) handleLookup(w http.ResponseWriter, r *http.Request) {
	answer, err := s.lookup(r.Context(), r.URL.Query().Get("key"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusGatewayTimeout)
		return
	}
	fmt.Fprintln(w, answer)
}

// lookup asks the backend, and gives up when the caller does.
func (s *Server) lookup(ctx context.Context, key string) (string, error) {
	answer := make(chan string) // the leak: with room for one answer, the goroutine below would always end
	go func() {
		answer <- askBackend(key)
	}()
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		s.abandoned.Add(1)
		return "", ctx.Err()
	}
}

// askBackend takes its time; keys that begin with "slow" take more than an impatient client has.
func askBackend(key string) string {
	if strings.HasPrefix(key, "slow") {
		time.Sleep(100 * time.Millisecond)
	} else {
		time.Sleep(time.Millisecond)
	}
	return "value of " + key
}

// handlePage puts a page together from parts that are made at the same time.
func (s *Server) handlePage(w http.ResponseWriter, _ *http.Request) {
	parts := make([]string, 4)
	var made sync.WaitGroup
	for i := range parts {
		made.Add(1)
		go s.renderPart(i, parts, &made)
	}
	made.Wait()
	s.sessions.Add(1)
	time.AfterFunc(200*time.Millisecond, s.endSession)
	fmt.Fprintln(w, strings.Join(parts, "\n"))
}

func (s *Server) renderPart(i int, parts []string, made *sync.WaitGroup) {
	defer made.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	parts[i] = fmt.Sprintf("part %d of %s", i, s.cache["page"])
}

func (s *Server) endSession() { s.sessions.Add(-1) }

func (s *Server) handleThumbnail(w http.ResponseWriter, r *http.Request) {
	done := make(chan string, 1)
	select {
	case s.thumbnails <- thumbnail{r.URL.Query().Get("name"), done}:
		fmt.Fprintln(w, <-done)
	case <-r.Context().Done():
	}
}

func (s *Server) thumbnailWorker(ctx context.Context) {
	for {
		select {
		case t := <-s.thumbnails:
			t.done <- "thumbnail of " + t.name
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) refreshCache(ctx context.Context) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			s.mu.Lock()
			s.cache["page"] = now.Format(time.RFC3339Nano)
			s.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}
