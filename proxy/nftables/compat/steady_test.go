package compat

import (
	"errors"
	"fmt"
	"testing"

	lib "github.com/google/nftables"

	"turnout/proxy/proxytest"
)

// What is read while somebody changes nftables is read again, but not for ever; an error ends it at once.
func TestSteady(t *testing.T) {
	refusal := errors.New("no")
	for _, test := range []struct {
		name    string
		changes int
		err     error
		want    int
	}{
		{"nobody changes anything", 0, nil, 1}, {"two changes", 2, nil, 3}, {"changes all the time", 100, nil, attempts}, {"an error", 100, refusal, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			proxytest.InNamespace(t, func() {
				reads := 0
				err := Steady(func() error {
					if reads++; reads > test.changes {
						return test.err
					}
					c, err := lib.New()
					if err != nil {
						return err
					}
					c.AddTable(&lib.Table{Family: lib.TableFamilyIPv4, Name: fmt.Sprint("t", reads)})
					return errors.Join(c.Flush(), test.err)
				})
				if reads != test.want || !errors.Is(err, test.err) {
					t.Errorf("%d reads, %v; want %d, %v", reads, err, test.want, test.err)
				}
			})
		})
	}
}
