package leftovers

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"turnout/proxy/iptables"
	"turnout/proxy/iptables/nfacct"
)

// findCounters looks for the packet counters of kube-proxy's mode iptables (nfacct). Their rules may be long gone: nothing of kube-proxy's ever
// removes them.
func findCounters() (names []string, err error) {
	var errs []error
	for _, name := range iptables.Counters {
		_, err := nfacct.Packets(name)
		switch {
		case err == nil:
			names = append(names, name)
		case errors.Is(err, fs.ErrNotExist), Lacking(err):
		default:
			errs = append(errs, err)
		}
	}
	return names, errors.Join(errs...)
}

func counterObject(name string) Object { return Object{Kind: "counter", Name: name} }

// removeCounters deletes counters, after the rules that count with them are gone. One that is gone already is no error.
func removeCounters(names []string) error {
	var errs []error
	end := time.Now().Add(forgotten)
	for _, name := range names {
		err := whileBusy(end, unix.EBUSY, func() error { return nfacct.Delete(name) })
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, unix.EBUSY):
			errs = append(errs, fmt.Errorf("delete the packet counter %s: a rule of another program counts with it; when that is gone: nfacct delete %s", name, name))
		default:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
