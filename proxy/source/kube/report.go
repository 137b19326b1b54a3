package kube

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"
)

// resource is what is watched, with what is lost without it.
type resource struct {
	group, name string
	without     string
}

var (
	services       = resource{"", "services", "the rules in the kernel stay as they are"}
	endpointSlices = resource{"discovery.k8s.io", "endpointslices", "the rules in the kernel stay as they are"}
	serviceCIDRs   = resource{"networking.k8s.io", "servicecidrs", "everything works, but packets to cluster IPs that no Service has are not dropped"}
	nodes          = resource{"", "nodes", "the node's addresses, zone and taints are not followed"}
)

// String returns the resource as RBAC rules and kubectl name it, such as "servicecidrs.networking.k8s.io".
func (r resource) String() string {
	if r.group == "" {
		return r.name
	}
	return r.name + "." + r.group
}

// cause is a kind of failure; failures of one cause are logged once in a while only.
type cause uint8

const (
	closed cause = iota // no failure: the API server ends every watch after a while
	forbidden
	unauthorized
	notServed
	unreachable
	untrusted
	other
)

func causeOf(err error) cause {
	var certificate *tls.CertificateVerificationError
	var connection *net.OpError
	switch {
	case unanswered(err) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return unreachable // such as a load balancer on this node that has no API server to go to
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return closed
	case apierrors.IsForbidden(err):
		return forbidden
	case apierrors.IsUnauthorized(err):
		return unauthorized
	case apierrors.IsNotFound(err):
		return notServed
	case utilnet.IsConnectionRefused(err), utilnet.IsConnectionReset(err), utilnet.IsTimeout(err), utilnet.IsNoRoutesError(err):
		return unreachable
	case errors.As(err, &connection) && connection.Op == "dial":
		return unreachable // such as a name that DNS does not know
	case errors.As(err, &certificate):
		return untrusted
	}
	return other
}

// unanswered reports whether a request failed before any of its answer came.
func unanswered(err error) bool {
	var request *url.Error
	return errors.As(err, &request)
}

// deniedVerb finds the verb in the API server's answer.
var deniedVerb = regexp.MustCompile(`cannot (list|watch|get) resource`)

// remedy says what to do about a failure.
func (c cause) remedy(r resource, err error) string {
	switch c {
	case forbidden:
		verb := "list or watch"
		if m := deniedVerb.FindStringSubmatch(err.Error()); m != nil {
			verb = m[1]
		}
		return fmt.Sprintf("this user may not %s %s; bind it to the ClusterRole system:node-proxier, which grants that", verb, r)
	case unauthorized:
		return "the API server does not accept these credentials; see whether the token or the certificate in the kubeconfig is still valid"
	case notServed:
		return fmt.Sprintf("the API server does not serve %s; it may be too old or have the API switched off", r)
	case unreachable:
		return "the API server cannot be reached; see whether the address in the kubeconfig or --master is right and the network works"
	case untrusted:
		return "the certificate of the API server is not valid for this address, or not signed by the certificate-authority in the kubeconfig"
	}
	return ""
}

// quiet is how long the same failure is not logged again.
const quiet = time.Minute

// reporter logs failures of watches, of which an API server that is down gives many.
type reporter struct {
	now  func() time.Time
	mu   sync.Mutex // guards last
	last map[failure]*record
}

type failure struct {
	resource string
	cause    cause
}

type record struct {
	at      time.Time
	omitted int // since then
}

func newReporter() *reporter { return &reporter{now: time.Now, last: map[failure]*record{}} }

// admit reports whether a failure is to be logged now, and how many like it were not.
func (r *reporter) admit(f failure) (omitted int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	last := r.last[f]
	if last != nil && now.Sub(last.at) < quiet {
		last.omitted++
		return 0, false
	}
	if last != nil {
		omitted = last.omitted
	}
	r.last[f] = &record{at: now}
	return omitted, true
}

// watchFailed logs why a list or a watch ended. It will be tried again.
func (r *reporter) watchFailed(logger klog.Logger, res resource, err error) {
	c := causeOf(err)
	if c == closed {
		logger.V(4).Info("Watch ended, starting it again", "resource", res.String(), "err", err)
		return
	}
	omitted, ok := r.admit(failure{res.String(), c})
	if !ok {
		return
	}
	keys := []any{"resource", res.String(), "until then", res.without}
	if remedy := c.remedy(res, err); remedy != "" {
		keys = append(keys, "remedy", remedy)
	}
	if omitted > 0 {
		keys = append(keys, "alike since last logged", omitted)
	}
	logger.Error(err, "Cannot watch, trying again", keys...)
}
