package lab

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SCTP chunk types and sizes, RFC 9260 sections 3.1 to 3.3.
const (
	sctpInit    = 1
	sctpInitAck = 2
	sctpAbort   = 6

	sctpHeader      = 12
	sctpInitChunk   = 20
	sctpStateCookie = 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpPacket is an SCTP packet with a single chunk that is of one of the types above.
type sctpPacket struct {
	from, to uint16 // ports
	tag      uint32 // verification tag
	chunk    byte
	initTag  uint32 // initiate tag, of INIT and INIT ACK
	cookie   []byte // of INIT ACK
}

// encode returns the packet with its checksum, without the IP header.
func (p *sctpPacket) encode() []byte {
	b := make([]byte, sctpHeader, 128)
	binary.BigEndian.PutUint16(b[0:], p.from)
	binary.BigEndian.PutUint16(b[2:], p.to)
	binary.BigEndian.PutUint32(b[4:], p.tag)
	size := 4
	if p.chunk != sctpAbort {
		size = sctpInitChunk
		if p.chunk == sctpInitAck {
			size += 4 + len(p.cookie)
		}
	}
	b = append(b, p.chunk, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	if p.chunk != sctpAbort {
		b = binary.BigEndian.AppendUint32(b, p.initTag)
		b = binary.BigEndian.AppendUint32(b, 65535) // receiver window
		b = append(b, 0, 1, 0, 1)                   // streams out, in
		b = binary.BigEndian.AppendUint32(b, p.initTag)
	}
	if p.chunk == sctpInitAck {
		b = append(b, 0, sctpStateCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.cookie)))
		b = append(b, p.cookie...)
	}
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// decodeSCTP reads a packet without its IP header.
func decodeSCTP(b []byte) (*sctpPacket, error) {
	if len(b) < sctpHeader+4 {
		return nil, errors.New("SCTP packet too short")
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	zeroed := append([]byte(nil), b...)
	clear(zeroed[8:12])
	if crc32.Checksum(zeroed, castagnoli) != sum {
		return nil, errors.New("SCTP checksum is wrong")
	}
	p := &sctpPacket{
		from:  binary.BigEndian.Uint16(b[0:]),
		to:    binary.BigEndian.Uint16(b[2:]),
		tag:   binary.BigEndian.Uint32(b[4:]),
		chunk: b[sctpHeader],
	}
	body := b[sctpHeader:]
	if p.chunk != sctpInit && p.chunk != sctpInitAck {
		return p, nil
	}
	if len(body) < sctpInitChunk {
		return nil, errors.New("SCTP INIT too short")
	}
	p.initTag = binary.BigEndian.Uint32(body[4:])
	if param := body[sctpInitChunk:]; len(param) >= 4 && binary.BigEndian.Uint16(param) == sctpStateCookie {
		if n := int(binary.BigEndian.Uint16(param[2:])); n >= 4 && n <= len(param) {
			p.cookie = param[4:n]
		}
	}
	return p, nil
}

// listenSCTP answers each INIT for the port by an INIT ACK.
func (h *Host) listenSCTP(at netip.AddrPort) (io.Closer, error) {
	c, err := net.ListenIP("ip:132", &net.IPAddr{IP: at.Addr().AsSlice()})
	if err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 2048)
		for {
			n, peer, err := c.ReadFromIP(buf)
			if err != nil {
				return
			}
			p, err := decodeSCTP(buf[:n])
			if err != nil || p.chunk != sctpInit || p.to != at.Port() {
				continue
			}
			seen, _ := netip.AddrFromSlice(peer.IP)
			answer := sctpPacket{from: p.to, to: p.from, tag: p.initTag, chunk: sctpInitAck, initTag: p.initTag + 1,
				cookie: []byte(h.banner(at, netip.AddrPortFrom(seen, p.from)))}
			_, _ = c.WriteToIP(answer.encode(), peer)
		}
	}()
	return c, nil
}

// dialSCTP sends an INIT and reads the banner from the INIT ACK. An ABORT counts as a refusal.
func dialSCTP(from netip.AddrPort, to netip.AddrPort, timeout time.Duration) (string, error) {
	d := dialer(to, nil)
	if from.Addr().IsValid() {
		d.LocalAddr = &net.IPAddr{IP: from.Addr().AsSlice()}
	}
	conn, err := d.Dial("ip:132", to.Addr().String())
	if err != nil {
		return "", err
	}
	c := conn.(*net.IPConn)
	defer c.Close()
	port := from.Port()
	if port == 0 {
		port = nextPort()
	}
	tag := rand.Uint32() | 1
	hello := sctpPacket{from: port, to: to.Port(), chunk: sctpInit, initTag: tag}
	if err := send(c, hello.encode()); err != nil && !foreign(c, port, to.Port(), err) {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(timeout))
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFromIP(buf)
		if err != nil {
			if foreign(c, port, to.Port(), err) {
				continue
			}
			return "", err
		}
		p, err := decodeSCTP(buf[:n])
		if err != nil || p.to != port || p.from != to.Port() || p.tag != tag {
			continue
		}
		switch p.chunk {
		case sctpInitAck:
			return string(p.cookie), nil
		case sctpAbort:
			return "", errRefused
		}
	}
}

// foreign tells that an error of a raw socket comes from ICMP errors that are all about other ports: the kernel gives such
// to every raw socket with the same addresses.
func foreign(c *net.IPConn, from, to uint16, err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	seen, ours := 0, false
	_ = raw.Control(func(fd uintptr) {
		packet, oob := make([]byte, 256), make([]byte, 256)
		for {
			// What is read is the packet that the error is about, without its IP header.
			n, _, _, _, err := unix.Recvmsg(int(fd), packet, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			seen++
			ours = ours || n < 4 || binary.BigEndian.Uint16(packet) == from && binary.BigEndian.Uint16(packet[2:]) == to
		}
	})
	return seen > 0 && !ours
}
