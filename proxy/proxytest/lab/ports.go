package lab

import "sync/atomic"

// lastPort counts the ports that nextPort gave out.
var lastPort atomic.Uint32

const firstPort, sourcePorts = 32768, 28000

// nextPort returns the source port of a new UDP flow or SCTP association. Ports come one after the other, and not by chance: conntrack remembers a
// datagram for half a minute (sysctl nf_conntrack_udp_timeout), and an INIT that nothing followed for three seconds
// (nf_conntrack_sctp_timeout_cookie_wait), and sends the next one from the same port where it sent the first, whatever the rules say now. TCP
// needs none of that from conntrack: a SYN after a reset is a new connection to it.
func nextPort() uint16 { return uint16(firstPort + lastPort.Add(1)%sourcePorts) }
