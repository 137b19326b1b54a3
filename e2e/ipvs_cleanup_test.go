package e2e

import "testing"

// TestCleanupIPVS removes the virtual servers of kube-proxy's mode ipvs that are at addresses of its interface, and names those that may be its
// NodePorts, though nothing tells of them any longer when the interface is gone.
func TestCleanupIPVS(t *testing.T) {
	needsIPVS(t)
	needs(t, "ip", "ipvsadm")
	c := newCluster(t)
	c.sh("ip link add kube-ipvs0 type dummy; ip address add 10.96.0.1/32 dev kube-ipvs0; ipvsadm -A -t 10.96.0.1:443; ipvsadm -A -t 192.168.50.1:30080")
	const left = "left virtual server: TCP 192.168.50.1:30080 ("
	c.onNode("cleanup", "--mode", "ipvs", "--dry-run").want(t, 1, "would remove virtual server: TCP 10.96.0.1:443\n", "would remove interface: kube-ipvs0\n", left, "1 objects are left")
	c.onNode("cleanup", "--mode", "ipvs").want(t, 1, "removed virtual server: TCP 10.96.0.1:443\n", "removed interface: kube-ipvs0\n", left, "1 objects are left")
	c.onNode("cleanup", "--mode", "ipvs").want(t, 0)
}
