package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestPages checks that what the pages name is there: where links lead, flags, metrics, log lines, tests and make targets.
func TestPages(t *testing.T) {
	s := readTree(t)
	flags := flagNames(newRootCommand(nil))
	named := map[string]int{}
	for page, text := range s.pages {
		for _, c := range []struct {
			what  string
			names []string
			there func(name string) bool
		}{
			{"link", links(text), func(l string) bool { return s.leads(page, l) }},
			{"flag", turnoutFlags(text), func(f string) bool { return flags[f] }},
			{"metric", find(text, `\b(?:kubeproxy|turnout)_[a-z0-9_]*[a-z0-9]\b`), s.has},
			{"log line", logLines(text), s.has},
			{"test", find(text, `\bTest[A-Z]\w+`), func(name string) bool { return s.has("func " + name + "(") }},
			{"make target", makeTargets(text), func(name string) bool { return strings.Contains(s.makefile, "\n"+name+":") }},
		} {
			named[c.what] += len(c.names)
			for _, name := range c.names {
				if !c.there(name) {
					t.Errorf("%s: there is no %s %q", page, c.what, name)
				}
			}
		}
	}
	for what, n := range named {
		if n < 10 {
			t.Errorf("found only %d times what looks like a %s", n, what)
		}
	}
}

// tree is what the pages are about.
type tree struct {
	pages    map[string]string // by path from the root of the repository
	code     string            // all Go files
	makefile string
}

const repository = "../.."

func readTree(t *testing.T) *tree {
	t.Helper()
	s := &tree{pages: map[string]string{}}
	var code strings.Builder
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		ext := filepath.Ext(name)
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != repository && (name[0] == '.' || slices.Contains([]string{"bin", "testdata", "vendor"}, name)):
			return filepath.SkipDir
		case d.IsDir() || ext != ".md" && ext != ".go" && name != "Makefile":
			return nil
		}
		raw, err := os.ReadFile(path)
		switch ext {
		case ".md":
			s.pages[strings.TrimPrefix(path, repository+"/")] = string(raw)
		case ".go":
			code.Write(raw)
		default:
			s.makefile = string(raw)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.code = code.String()
	return s
}

func (s *tree) has(text string) bool { return strings.Contains(s.code, text) }

// leads tells whether a link of a page leads to a file, and to a heading if it names one.
func (s *tree) leads(page, link string) bool {
	path, anchor, hasAnchor := strings.Cut(link, "#")
	target := page
	if path != "" {
		target = filepath.Join(filepath.Dir(page), path)
	}
	_, err := os.Stat(filepath.Join(repository, target))
	return err == nil && (!hasAnchor || slices.Contains(anchors(s.pages[target]), anchor))
}

// links are those of a page that are not to the Internet.
func links(text string) []string {
	return slices.DeleteFunc(find(withoutBlocks(text), `\]\(([^)\s]+)\)`), func(l string) bool { return strings.Contains(l, "://") })
}

// anchors are those that GitHub gives the headings of a page. No page has two headings alike.
func anchors(text string) (names []string) {
	dropped := regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	for _, heading := range find(withoutBlocks(text), `(?m)^#{1,6} (.*)$`) {
		names = append(names, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(heading), ""), " ", "-"))
	}
	return names
}

var block = regexp.MustCompile("(?ms)^ *```.*?^ *```$")

// withoutBlocks is a page without its blocks of code.
func withoutBlocks(text string) string { return block.ReplaceAllString(text, "") }

// find returns all matches of an expression, or what its group matched if it has one.
func find(text, expr string) (found []string) {
	for _, m := range regexp.MustCompile(expr).FindAllStringSubmatch(text, -1) {
		found = append(found, m[len(m)-1])
	}
	return found
}

// othersFlags are flags of other programs that pages name without the program.
var othersFlags = []string{"from-file", "node-labels", "patches", "skip-phases"}

// turnoutFlags are the flags behind turnout, and those that stand alone.
func turnoutFlags(text string) (names []string) {
	for _, command := range find(text, "(?m)(?:^|[`/ |])turnout( [a-z-][^`|\n]*)") {
		names = append(names, find(command, ` --([a-z-]+)`)...)
	}
	alone := find(withoutBlocks(text), "`--([a-z-]+)[^`]*`")
	return append(names, slices.DeleteFunc(alone, func(f string) bool { return slices.Contains(othersFlags, f) })...)
}

// flagNames are the names of all flags of a command and of those below it.
func flagNames(cmd *cobra.Command) map[string]bool {
	names := map[string]bool{"help": true}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names[f.Name] = true })
	for _, c := range cmd.Commands() {
		for name := range flagNames(c) {
			names[name] = true
		}
	}
	return names
}

// logLines are what looks like a sentence in code, up to an ellipsis.
func logLines(text string) (lines []string) {
	for _, code := range find(withoutBlocks(text), "`\"?([A-Z][a-z]+ [a-z][^`]* [^`]*)`") {
		line, _, _ := strings.Cut(strings.Join(strings.Fields(code), " "), " …")
		lines = append(lines, strings.TrimSuffix(line, `"`))
	}
	return lines
}

func makeTargets(text string) []string {
	blocks := strings.Join(block.FindAllString(text, -1), "\n")
	return append(find(withoutBlocks(text), "`make ([a-z0-9-]+)"), find(blocks, `(?m)^ *make ([a-z0-9-]+)`)...)
}
