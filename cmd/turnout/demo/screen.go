package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// screen writes what the demo shows, for a terminal or for a file.
type screen struct {
	out      io.Writer
	terminal bool

	mu             sync.Mutex // guards out and shown
	shown          bool       // a progress line is on the screen
	checks, failed int
}

func newScreen(out io.Writer, terminal bool) *screen { return &screen{out: out, terminal: terminal} }

// Escape sequences of terminals, ECMA-48.
const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[1;31m"
	green = "\x1b[32m"
	blue  = "\x1b[34m"
	reset = "\x1b[0m"
	erase = "\r\x1b[K"
)

// width is the column of the verdicts.
const width = 94

func (s *screen) colour(c, text string) string {
	if !s.terminal {
		return text
	}
	return c + text + reset
}

func (s *screen) printf(format string, args ...any) { s.write(fmt.Sprintf(format, args...)) }

func (s *screen) write(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		text = erase + text
		s.shown = false
	}
	_, _ = io.WriteString(s.out, text) // nobody else could be told
}

// line writes one line of the proxy's log.
func (s *screen) line(text string) { s.printf("%s\n", s.colour(dim, "  proxy | "+text)) }

func (s *screen) heading(title string) { s.printf("\n%s\n", s.colour(bold, title)) }

// progress shows what is being done, in a line that the next output replaces; "" removes it. It says nothing where lines cannot
// be replaced.
func (s *screen) progress(format string, args ...any) {
	if !s.terminal {
		return
	}
	text := fmt.Sprintf(format, args...)
	if text == "" {
		s.write("")
		return
	}
	s.write(s.colour(dim, "  ... "+text))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = true
}

// check shows one fact and whether it is as it should be.
func (s *screen) check(ok bool, format string, args ...any) {
	text := "  " + fmt.Sprintf(format, args...)
	s.checks++
	verdict := s.colour(green, "ok")
	if !ok {
		s.failed++
		verdict = s.colour(red, "FAIL")
	}
	s.printf("%s%s %s\n", text, strings.Repeat(" ", max(1, width-utf8.RuneCountInString(text))), verdict)
}

// bars draws counts by name, the longest as long as there is room.
func (s *screen) bars(counts map[string]int) {
	const length = 40
	fill := "#"
	if s.terminal {
		fill = "█"
	}
	most := 1
	for _, n := range counts {
		most = max(most, n)
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		n := counts[name]
		bar := strings.Repeat(fill, n*length/most)
		s.printf("    %-7s %s %d\n", name, s.colour(blue, bar+strings.Repeat(" ", length-n*length/most)), n)
	}
}
