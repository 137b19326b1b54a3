package e2e

import "testing"

func TestStartAndStop(t *testing.T) {
	c := newCluster(t)
	p := c.start()
	c.set()
	p.follow()
	p.stop()
}
