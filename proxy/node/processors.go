package node

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Processors returns how many processors of the machine are online, also where a container may use only some of them.
func Processors() int {
	if b, err := os.ReadFile("/sys/devices/system/cpu/online"); err == nil {
		if n, err := countList(strings.TrimSpace(string(b))); err == nil {
			return n
		}
	}
	return runtime.NumCPU()
}

// countList counts the members of a list as the kernel writes them: "0-3,8,10-11" has seven.
func countList(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		a, errA := strconv.Atoi(low)
		b, errB := strconv.Atoi(high)
		if errA != nil || errB != nil || a < 0 || b < a {
			return 0, fmt.Errorf("%q is not a list of numbers and ranges", list)
		}
		n += b - a + 1
	}
	return n, nil
}
