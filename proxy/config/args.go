package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Parse sets the flags from the arguments. It does not stop at the first that is wrong: all are told by Config. Call it once.
func (f *Flags) Parse(args []string) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			f.positional(args...)
			return
		case strings.HasPrefix(arg, "--"):
			args = f.long(arg[2:], args)
		case strings.HasPrefix(arg, "-") && arg != "-":
			args = f.short(arg[1:], args)
		default:
			f.positional(arg)
		}
	}
}

// positional refuses arguments that are not flags.
func (f *Flags) positional(args ...string) {
	for _, a := range args {
		f.problems.add(strconv.Quote(a), "is neither a command nor a flag; remove it, or put a value behind its flag with \"=\"")
	}
}

// long handles "name" or "name=value", without the dashes, and returns what is left of the arguments behind it.
func (f *Flags) long(arg string, rest []string) []string {
	name, value, hasValue := strings.Cut(arg, "=")
	flag := f.set.Lookup(name)
	if flag == nil {
		return f.unknown("--"+name, name, hasValue, rest)
	}
	return f.value(flag, value, hasValue, rest)
}

// short handles "v", "v4" or "v=4", without the dash, and returns what is left of the arguments behind it.
func (f *Flags) short(arg string, rest []string) []string {
	name, _, hasValue := strings.Cut(arg, "=")
	flag := f.set.ShorthandLookup(arg[:1])
	if flag == nil || len(name) > 1 && f.set.Lookup(name) != nil {
		return f.unknown("-"+name, name, hasValue, rest)
	}
	value := strings.TrimPrefix(arg[1:], "=")
	return f.value(flag, value, len(arg) > 1, rest)
}

// value sets a flag to a value, which is the next argument unless it is given or may be left out.
func (f *Flags) value(flag *pflag.Flag, value string, hasValue bool, rest []string) []string {
	switch {
	case hasValue:
	case flag.NoOptDefVal != "":
		value = flag.NoOptDefVal
	case len(rest) == 0:
		f.problems.add("--"+flag.Name, "has no value; give %s", wanted(flag.Value.Type()))
		return rest
	default:
		value, rest = rest[0], rest[1:]
	}
	before := flag.Value.String()
	if err := f.set.Set(flag.Name, value); err != nil {
		if isScalar(flag.Value.Type()) {
			_ = flag.Value.Set(before) // some types keep what they could read; it would be reported again as out of bounds
		}
		f.problems.add("--"+flag.Name, "%s; give %s", cause(value, flag.Value.Type(), err), wanted(flag.Value.Type()))
	}
	return rest
}

// unknown reports a flag that does not exist. An argument behind it that looks like its value is skipped, unless the flag
// was likely meant to be one that takes none.
func (f *Flags) unknown(arg, name string, hasValue bool, rest []string) []string {
	guess := nearest(name, f.names())
	if guess == "" {
		f.problems.add(arg, "is not a flag; see --help")
	} else {
		f.problems.add(arg, "is not a flag; did you mean --%s?", guess)
	}
	takesNone := guess != "" && f.set.Lookup(guess).NoOptDefVal != ""
	if !hasValue && !takesNone && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return rest[1:]
	}
	return rest
}

// names returns the names of all flags that --help shows, in order of definition.
func (f *Flags) names() []string {
	var names []string
	f.set.VisitAll(func(flag *pflag.Flag) {
		if !flag.Hidden {
			names = append(names, flag.Name)
		}
	})
	return names
}

// wanted says what a value of a flag type looks like.
func wanted(flagType string) string {
	switch flagType {
	case "bool":
		return "true or false"
	case "duration":
		return "a duration such as 30s or 15m"
	case "int32", "Level":
		return "a whole number"
	case "float32":
		return "a number"
	case "mapStringBool":
		return "name=true or name=false, separated by commas"
	case "version":
		return "true, false or raw"
	case "quantity":
		return "a size such as 64Ki"
	case "pattern=N,...":
		return "pattern=N, separated by commas"
	}
	return "a value"
}

// cause says what is wrong with a value: only the reason, not the flag's name.
func cause(value, flagType string, err error) string {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		err = invalid.Unwrap()
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return strconv.Quote(value) + " is out of range"
	case isScalar(flagType):
		return strconv.Quote(value) + " does not fit"
	}
	return fmt.Sprintf("%q: %v", value, err)
}

// isScalar tells the flag types whose parse errors say no more than that a value does not fit.
func isScalar(flagType string) bool {
	switch flagType {
	case "bool", "int32", "float32", "duration", "Level", "version":
		return true
	}
	return false
}

// versionFlag is the value of --version.
type versionFlag string

var _ pflag.Value = (*versionFlag)(nil)

// Set accepts "raw" and what is a bool.
func (v *versionFlag) Set(s string) error {
	if s == "raw" {
		*v = "raw"
		return nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("not a kind of version output")
	}
	*v = versionFlag(strconv.FormatBool(b))
	return nil
}

// String returns "true", "false" or "raw".
func (v *versionFlag) String() string { return string(*v) }

// Type returns "version".
func (v *versionFlag) Type() string { return "version" }
