package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"turnout/proxy"
	"turnout/proxy/proxytest/lab"
)

// sources shows which address the endpoints see.
func (d *demo) sources(ctx context.Context) error {
	for _, row := range []struct {
		from string
		to   netip.AddrPort
		what string
		kept bool
	}{
		{"pod-2", web, "ClusterIP", true},
		{"client", shopNodePort, "NodePort, policy Local", true},
		{"client", shopNodePort6, "NodePort, policy Local", true},
		{"client", webNodePort, "NodePort, policy Cluster", false},
		{"n1", web, "the node itself to a ClusterIP", false},
	} {
		// A pod that is led back to itself is the case below.
		o, err := d.reach(ctx, row.from, row.to, func(server string) bool { return server != row.from })
		if err != nil {
			return err
		}
		d.seen(row.from, row.to, row.what, o, row.kept)
	}
	d.progress("waiting for pod-1 to reach itself")
	o, err := d.reach(ctx, "pod-1", web, func(server string) bool { return server == "pod-1" })
	if err != nil {
		return err
	}
	d.seen("pod-1", web, "a pod to itself", o, false)
	return nil
}

// reach connects until a server that is wanted answers, or a connection fails.
func (d *demo) reach(ctx context.Context, from string, to netip.AddrPort, wanted func(server string) bool) (o lab.Outcome, err error) {
	err = until(ctx, 5*time.Second, func() (bool, error) {
		o = d.lab.Host(from).Dial(proxy.TCP, to, lab.DialOptions{})
		return o.Result != lab.Connected || wanted(o.Server), nil
	})
	return o, err
}

// seen judges the source address of one connection: it is the client's own, or one of the node.
func (d *demo) seen(from string, to netip.AddrPort, what string, o lab.Outcome, kept bool) {
	if o.Result != lab.Connected {
		d.check(false, "%s -> %s (%s): %v", from, to, what, o)
		return
	}
	ok, verb := slices.Contains(d.lab.NodeAddrs, o.SeenSource), "masqueraded"
	if kept {
		ok, verb = o.SeenSource == d.lab.Host(from).Addr(proxy.FamilyOf(to.Addr())), "kept"
	}
	d.check(ok, "%s -> %s (%s): %s saw %s, %s", from, to, what, o.Server, o.SeenSource, verb)
}

// loadBalancer shows source ranges and the health check of a load-balancer address.
func (d *demo) loadBalancer(ctx context.Context) error {
	client := d.lab.Client()
	for _, row := range []struct {
		to      netip.AddrPort
		source  int // index into the client's addresses
		allowed bool
	}{
		{api, 0, true}, {api, 1, false}, {api6, 3, true}, {api6, 4, false},
	} {
		source := client.Addrs[row.source]
		o := client.Dial(proxy.TCP, row.to, lab.DialOptions{Source: netip.AddrPortFrom(source, 0)})
		if row.allowed {
			d.check(o.Result == lab.Connected && o.SeenSource == source, "%s -> %s, in the source ranges: %v, seen as %s",
				source, row.to, o.Result, o.SeenSource)
		} else {
			d.check(o.Result == lab.Timeout, "%s -> %s, not in the source ranges: %v", source, row.to, o.Result)
		}
	}
	status, answer, err := d.get(ctx, client, "http://"+healthPort.String())
	if err != nil {
		return err
	}
	var health struct{ LocalEndpoints int }
	if err := json.Unmarshal(answer, &health); err != nil {
		return fmt.Errorf("health check answers %q: %w", answer, err)
	}
	d.check(status == http.StatusOK && health.LocalEndpoints == 2, "its health check on port %d says %d with %d local endpoints",
		healthPort.Port(), status, health.LocalEndpoints)
	status, _, err = d.get(ctx, d.lab.Node(), "http://127.0.0.1:10256/healthz")
	if err != nil {
		return err
	}
	d.check(status == http.StatusOK, "the proxy's own /healthz says %d", status)
	return nil
}

// get makes an HTTP request from a host.
func (d *demo) get(ctx context.Context, from *lab.Host, url string) (int, []byte, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = from.Do(func() error {
			c, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 2 * time.Second}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	return response.StatusCode, body, err
}

// refusals shows how connections end that cannot be forwarded.
func (d *demo) refusals(context.Context) error {
	for _, row := range []struct {
		what     string
		from     string
		protocol proxy.Protocol
		to       netip.AddrPort
		want     lab.Result
	}{
		{"no endpoints", "client", proxy.TCP, empty, lab.Refused},
		{"no endpoints, from a pod, IPv6", "pod-1", proxy.TCP, empty6, lab.Refused},
		{"no endpoints, from the node, UDP", "n1", proxy.UDP, netip.AddrPortFrom(empty.Addr(), 53), lab.Refused},
		{"a port that the Service does not have", "client", proxy.TCP, webNoPort, lab.Refused},
		{"an address that no Service has", "pod-1", proxy.TCP, noService, lab.Timeout},
	} {
		o := d.lab.Host(row.from).Dial(row.protocol, row.to, lab.DialOptions{})
		ok := o.Result == row.want
		took := ""
		if row.want == lab.Refused {
			ok = ok && o.Took < lab.DefaultTimeout/2
			took = fmt.Sprintf(" in %.1f ms", float64(o.Took.Microseconds())/1000)
		}
		d.check(ok, "%s: %s -> %s %s: %v%s", row.what, row.from, row.to, row.protocol, o.Result, took)
	}
	return nil
}
