package nftables

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"turnout/proxy"
)

// An expression is one instruction of a rule.
type expression interface {
	// encode appends the attributes NFTA_EXPR_NAME and NFTA_EXPR_DATA.
	encode(f proxy.Family, to *attributes) error
}

// fromLibrary is an expression that google/nftables models.
type fromLibrary struct{ expr.Any }

func library(e ...expr.Any) []expression {
	out := make([]expression, len(e))
	for i := range e {
		out[i] = fromLibrary{e[i]}
	}
	return out
}

func (e fromLibrary) encode(f proxy.Family, to *attributes) error {
	b, err := expr.Marshal(nfproto(f), e.Any)
	to.raw(b)
	return err
}

// ctOriginal loads a field of the conntrack entry's original direction. The library cannot say the direction.
type ctOriginal struct{ key, register uint32 }

func (e ctOriginal) encode(_ proxy.Family, to *attributes) error {
	to.str(unix.NFTA_EXPR_NAME, "ct")
	data := to.nest(unix.NFTA_EXPR_DATA)
	to.u32(unix.NFTA_CT_KEY, e.key)
	to.u32(unix.NFTA_CT_DREG, e.register)
	to.bytes(unix.NFTA_CT_DIRECTION, []byte{0}) // IP_CT_DIR_ORIGINAL
	to.end(data)
	return nil
}

// host is a number as the kernel keeps it in a register.
func host(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// bitwise computes register = register & mask ^ xor.
func bitwise(register, mask, xor uint32) []expression {
	return library(&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: host(mask), Xor: host(xor)})
}
