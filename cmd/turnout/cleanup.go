package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/leftovers"
	"turnout/proxy/nftables"
)

// scope says what a cleanup is about.
type scope struct {
	nftables bool // the tables of mode nftables
	others   leftovers.Scope
	dryRun   bool
}

var everything = scope{nftables: true, others: leftovers.Scope{Iptables: true, IPVS: true}}

// scopes are the values of --mode.
var scopes = map[string]scope{
	"all": everything, "nftables": {nftables: true}, "iptables": {others: leftovers.Scope{Iptables: true}}, "ipvs": {others: leftovers.Scope{IPVS: true}},
}

func newCleanupCommand() *cobra.Command {
	mode, dryRun := "all", false
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the rules of Turnout and of kube-proxy from this node",
		Long: `Cleanup removes what Turnout and kube-proxy made in this node's kernel, and nothing else: rules of kubelet, CNI plugins and other
programs stay as they are. It needs no configuration and no API server, and executes no program. Each object is printed. The exit code is 1 if
something is left. Stop the proxy first, or it puts back what is removed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, ok := scopes[mode]
			if !ok {
				return fmt.Errorf("--mode %q is not known; use all, iptables, ipvs or nftables", mode)
			}
			s.dryRun = dryRun
			return cleanup(cmd.Context(), s, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&mode, "mode", mode, "Whose rules to remove: all, iptables, ipvs or nftables.")
	cmd.Flags().BoolVar(&dryRun, "dry-run", dryRun, "Only print what would be removed.")
	return cmd
}

// cleanup removes and prints what is in scope, then looks whether anything is left. It goes on after an error.
func cleanup(ctx context.Context, s scope, out io.Writer) error {
	var errs []error
	if s.nftables {
		for _, f := range proxy.Families {
			errs = append(errs, cleanupTable(ctx, s, f, out))
		}
	}
	if s.others != (leftovers.Scope{}) {
		errs = append(errs, cleanupOthers(s, out))
	}
	return errors.Join(errs...)
}

// cleanupTable removes the table of one family, also one of kube-proxy's.
func cleanupTable(ctx context.Context, s scope, f proxy.Family, out io.Writer) error {
	b, err := nftables.Open(nftables.Options{Family: f})
	found := false
	if err == nil {
		defer b.Close()
		found, err = b.Exists()
	}
	if leftovers.Lacking(err) {
		return nil
	}
	if err != nil || !found {
		return err
	}
	if !s.dryRun {
		if err := b.Cleanup(ctx); err != nil {
			return err
		}
	}
	printObject(out, s, "table: "+nftables.TableOf(f))
	return nil
}

func printObject(out io.Writer, s scope, object string) {
	what := "removed"
	if s.dryRun {
		what = "would remove"
	}
	fmt.Fprintln(out, what, object)
}

// cleanupOthers removes what the other modes left.
func cleanupOthers(s scope, out io.Writer) error {
	found, err := leftovers.Find(s.others, proxy.Families[:]...)
	errs := []error{err}
	now, left := found, map[string]string{} // what is told of each object that is left
	if !s.dryRun {
		errs = append(errs, found.Remove())
		now, err = leftovers.Find(s.others, proxy.Families[:]...)
		errs = append(errs, err)
		for _, o := range now.Removable() {
			left[o.String()] = o.String()
		}
	}
	// What was left alone is left, also where nothing tells any longer that it may be a proxy's: virtual servers, when the interface is gone.
	for _, k := range slices.Concat(found.Kept(), now.Kept()) {
		left[k.Object.String()] = k.String()
	}
	for _, o := range found.Removable() {
		if left[o.String()] == "" {
			printObject(out, s, o.String())
		}
	}
	for _, text := range slices.Sorted(maps.Values(left)) {
		fmt.Fprintln(out, "left", text)
	}
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("%d objects are left", len(left)))
	}
	return errors.Join(errs...)
}

// removeLeftovers removes, once the kernel follows the first State, what kube-proxy left in another mode: until then its rules served.
func (d *daemon) removeLeftovers(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-d.loop.Programmed():
	}
	logger := klog.FromContext(ctx)
	for {
		found, err := d.removeLeftoversOnce(logger)
		if err == nil {
			for _, k := range found.Kept() {
				logger.Error(nil, "Rules of another proxy are left on this node and may act on packets", "object", k.Object.String(), "remedy", k.Why)
			}
			return
		}
		logger.Error(err, "What another proxy left on this node cannot be removed; this is tried again")
		select {
		case <-ctx.Done():
			return
		case <-time.After(leftoversRetry):
		}
	}
}

// removeLeftoversOnce removes what is found, and returns it. What the mode in use has is none of that, so the mode stays the same meanwhile.
func (d *daemon) removeLeftoversOnce(logger klog.Logger) (*leftovers.Remains, error) {
	d.course.Lock()
	defer d.course.Unlock()
	found, err := leftovers.Find(d.course.engine.scope, d.families...)
	if removed := found.Removable(); len(removed) > 0 {
		err = errors.Join(err, found.Remove())
		logger.Info("Removed what another proxy left on this node", "objects", len(removed))
		for _, o := range removed {
			logger.V(4).Info("Removed", "object", o.String())
		}
	}
	return found, err
}

const leftoversRetry = 30 * time.Second
