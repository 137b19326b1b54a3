package lab

import "sync/atomic"

// lastPort counts the ports that nextPort gave out.
var lastPort atomic.Uint32

const firstPort, sourcePorts = 32768, 28000

// nextPort returns the source port of a new connection, UDP flow or SCTP association. Ports come one after the other, and not by chance: conntrack remembers a
// datagram for half a minute (sysctl nf_conntrack_udp_timeout), and an INIT that nothing followed for three seconds
// (nf_conntrack_sctp_timeout_cookie_wait), and sends the next one from the same port where it sent the first, whatever the rules say now. And IPVS remembers a TCP
// connection for ten seconds after a reset; when it forgets it, it has conntrack forget whatever connection has the same addresses and ports then
// (ip_vs_conn_drop_conntrack), which another mode may have translated. The kernel's own choice begins anew every ten seconds
// (EPHEMERAL_PORT_SHUFFLE_PERIOD).
func nextPort() uint16 { return uint16(firstPort + lastPort.Add(1)%sourcePorts) }
