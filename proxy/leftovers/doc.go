// Package leftovers finds and removes what an earlier proxy of another mode left in the kernel, and nothing else: what kubelet, CNI plugins
// and other programs made beside it stays as it is, to the byte.
package leftovers
