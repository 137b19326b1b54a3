package e2e

import "turnout/proxy/proxytest/expect"

// symmetric routes the answers of n2's pods through the node under test.
func (c *cluster) symmetric() {
	c.t.Helper()
	if err := c.Symmetric(); err != nil {
		c.t.Fatalf("route answers of n2's pods through n1: %v", err)
	}
}

// strays has the outside client answer what the proxy lets pass.
func (c *cluster) strays() {
	c.t.Helper()
	if err := c.CatchStrays(80, 81); err != nil {
		c.t.Fatal(err)
	}
}

// insiders are the origins whose stray packets reach the outside client.
var insiders = []string{localPod, remotePod, thisNode}

// passed expects that the proxy does nothing.
func passed() expectation { return expect.Passed() }
