package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
)

// An answer that comes too late for its number is counted with a later one.
func TestFlowCountsLateAnswers(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, late, err := exchangeUDP(conn, 1); err == nil || late != 0 {
		t.Errorf("not answered yet: late %d, %v", late, err)
	}
	for number := range uint64(2) {
		answer := binary.BigEndian.AppendUint64(fmt.Appendf(nil, "pod-1 %s saw %s\n", server.LocalAddr(), conn.LocalAddr()), number+1)
		if _, err := server.WriteTo(answer, conn.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	if name, late, err := exchangeUDP(conn, 2); name != "pod-1" || late != 1 || err != nil {
		t.Errorf("answered by %q, late %d, %v; want pod-1, 1", name, late, err)
	}
}
