package nftables

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// attributes builds netlink attributes (struct nlattr) in a buffer. Numbers are big-endian, as nf_tables wants them.
type attributes struct{ buf []byte }

func (a *attributes) raw(b []byte) { a.buf = append(a.buf, b...) }

func (a *attributes) head(typ uint16, length int) {
	a.buf = binary.NativeEndian.AppendUint16(a.buf, uint16(unix.SizeofNlAttr+length))
	a.buf = binary.NativeEndian.AppendUint16(a.buf, typ)
}

func (a *attributes) pad() {
	for len(a.buf)%unix.NLA_ALIGNTO != 0 {
		a.buf = append(a.buf, 0)
	}
}

func (a *attributes) bytes(typ uint16, b []byte) {
	a.head(typ, len(b))
	a.buf = append(a.buf, b...)
	a.pad()
}

func (a *attributes) str(typ uint16, s string) {
	a.head(typ, len(s)+1)
	a.buf = append(append(a.buf, s...), 0)
	a.pad()
}

func (a *attributes) u32(typ uint16, v uint32) {
	a.head(typ, 4)
	a.buf = binary.BigEndian.AppendUint32(a.buf, v)
}

func (a *attributes) u64(typ uint16, v uint64) {
	a.head(typ, 8)
	a.buf = binary.BigEndian.AppendUint64(a.buf, v)
}

// nest opens a nested attribute; end closes it.
func (a *attributes) nest(typ uint16) (at int) {
	at = len(a.buf)
	a.head(typ|unix.NLA_F_NESTED, 0)
	return at
}

func (a *attributes) end(at int) {
	binary.NativeEndian.PutUint16(a.buf[at:], uint16(len(a.buf)-at))
}

var errTruncated = errors.New("truncated netlink answer")

// eachAttribute calls fn for each attribute in b, with the nesting and byte order flags masked off.
func eachAttribute(b []byte, fn func(typ uint16, data []byte) error) error {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return errTruncated
		}
		typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if err := fn(typ, b[unix.SizeofNlAttr:length]); err != nil {
			return err
		}
		b = b[min(len(b), padded(length)):]
	}
	if len(b) > 0 {
		return errTruncated
	}
	return nil
}
