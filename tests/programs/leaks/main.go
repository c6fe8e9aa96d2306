// Leaks is a corpus: small services, half of which leak goroutines as real ones do, and half of which only look like it.
//
//	leaks list       the cases as JSON, one a line
//	leaks NAME       runs one until it is killed
//
// Each case is a function that sets something up and returns; work goes on in goroutines. Leaky cases name the functions a
// finding may rightly point to.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	_ "net/http/pprof"
	"os"
	"time"
)

// A service is one case.
type service struct {
	Name string `json:"name"`
	// The shape's name; "" where nothing leaks.
	Pattern string `json:"pattern"`
	// Functions that may be blamed.
	Functions []string `json:"functions"`
	// Written last, and only measured on.
	HeldOut bool `json:"held_out"`
	run     func()
}

var services []service

func leaky(name, pattern string, run func(), functions ...string) {
	services = append(services, service{Name: name, Pattern: pattern, Functions: functions, run: run})
}

func healthy(name string, run func()) {
	services = append(services, service{Name: name, run: run})
}

func main() {
	heldOut := len(services)
	registerHeldOut()
	for i := heldOut; i < len(services); i++ {
		services[i].HeldOut = true
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: leaks list|NAME")
		os.Exit(2)
	}
	if os.Args[1] == "list" {
		for _, s := range services {
			if s.Functions == nil {
				s.Functions = []string{}
			}
			json.NewEncoder(os.Stdout).Encode(s)
		}
		return
	}
	if address := os.Getenv("LEAKS_PPROF"); address != "" {
		go http.ListenAndServe(address, nil)
	}
	for _, s := range services {
		if s.Name == os.Args[1] {
			fmt.Println("pid", os.Getpid())
			s.run()
			for {
				time.Sleep(time.Hour)
			}
		}
	}
	fmt.Fprintln(os.Stderr, "no such case:", os.Args[1])
	os.Exit(2)
}

// every calls f now and then, for ever.
func every(period time.Duration, f func()) {
	go func() {
		for range time.Tick(period) {
			f()
		}
	}()
}
