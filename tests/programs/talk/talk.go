// Package talk is how the test programs are told what to do: line by line on standard input, each line answered with one
// JSON object on standard output.
package talk

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
)

// Answer is one object of JSON.
type Answer map[string]interface{}

// Obey has obey do what each line says, its first word the command; an error is an answer, too. It returns at the command
// quit and at the end of input.
func Obey(obey func(command string, args []string) (Answer, error)) {
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		if words[0] == "quit" {
			return
		}
		reply, err := obey(words[0], words[1:])
		if err != nil {
			reply = Answer{"error": err.Error()}
		}
		if err := out.Encode(reply); err != nil {
			os.Exit(1)
		}
	}
}
