package underway

import (
	"testing"
	"time"
)

// On the kernels that this runs on the wait is one for packets, and its time has an end.
func TestWait(t *testing.T) {
	if !barrier() {
		t.Skip("the kernel does not wait for a grace period (membarrier)")
	}
	start := time.Now()
	for range 3 {
		Wait()
	}
	if took := time.Since(start); took < 3*Brief || took > time.Minute {
		t.Errorf("three waits took %v", took)
	}
}
