package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"turnout/proxy"
	"turnout/proxy/source"
)

// What is asked of the API server. Services of another proxy (KEP-2447) and headless ones are left out, and so are the
// EndpointSlices of headless ones; those of another proxy's Services cannot be told apart.
const (
	serviceLabels = "!service.kubernetes.io/service-proxy-name"
	serviceFields = "spec.clusterIP!=None"
	sliceLabels   = "!" + v1.IsHeadlessService
)

// Options are the settings of a Source.
type Options struct {
	// NodeName is the name of the own Node object; no Node is watched if it is empty.
	NodeName string
	// Resync is how often all objects are delivered again though they did not change (configSyncPeriod); never if 0.
	Resync time.Duration
}

// Source delivers what the API server has and follows its changes.
type Source struct {
	client kubernetes.Interface
	opts   Options
	report *reporter
}

var _ source.Source = (*Source)(nil)

// New returns a Source for the cluster of client.
func New(client kubernetes.Interface, opts Options) *Source {
	return &Source{client: client, opts: opts, report: newReporter()}
}

// watch is one kind of object to follow.
type watch struct {
	resource resource
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandler
	awaited  bool // Synced waits for it
}

// Run watches until ctx ends and returns nil then. Whatever the API server refuses is logged and tried again, with random delays
// that grow to a minute, or to ten seconds if it cannot be reached at all; ServiceCIDRs and the Node may be refused for ever, Services and EndpointSlices are needed
// for Synced. Run may be called once.
func (s *Source) Run(ctx context.Context, sink source.Sink) error {
	logger := klog.FromContext(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var awaited, welcome []cache.DoneChecker
	for _, w := range s.watches(sink) {
		registration, err := w.prepare(s.report, logger)
		if err != nil {
			return fmt.Errorf("watch %s: %w", w.resource.name, err)
		}
		if w.awaited {
			awaited = append(awaited, registration.HasSyncedChecker())
		} else {
			welcome = append(welcome, registration.HasSyncedChecker())
		}
		group.Go(func() { w.informer.RunWithContext(ctx) })
	}
	if cache.WaitFor(ctx, "", awaited...) {
		waitBriefly(ctx, welcome)
		logger.V(1).Info("All Services and EndpointSlices were delivered")
		sink.Synced()
	}
	<-ctx.Done()
	return nil
}

// patience is how long Synced waits, once it could be called, for what may never come. ServiceCIDRs and the Node usually arrive with the rest; a
// first sync without them would serve no NodePorts and know no zone for a moment.
const patience = time.Second

func waitBriefly(ctx context.Context, welcome []cache.DoneChecker) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cache.WaitFor(ctx, "", welcome...)
}

// prepare connects the informer. What the registration calls synced was delivered, not only stored.
func (w *watch) prepare(report *reporter, logger klog.Logger) (cache.ResourceEventHandlerRegistration, error) {
	if err := w.informer.SetTransform(strip); err != nil {
		return nil, err
	}
	err := w.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		report.watchFailed(klog.FromContext(ctx), w.resource, err)
	})
	if err != nil {
		return nil, err
	}
	return w.informer.AddEventHandlerWithOptions(w.handler, cache.HandlerOptions{Logger: &logger})
}

func (s *Source) watches(sink source.Sink) []watch {
	list := []watch{{
		resource: services,
		informer: newInformer(s, services, s.client.CoreV1().Services(metav1.NamespaceAll), &v1.Service{}, func(o *metav1.ListOptions) {
			o.LabelSelector, o.FieldSelector = serviceLabels, serviceFields
		}),
		handler: deliver(sink.SetService, func(o name) {
			sink.DeleteService(proxy.ServiceName{Namespace: o.Namespace, Name: o.Name})
		}),
		awaited: true,
	}, {
		resource: endpointSlices,
		informer: newInformer(s, endpointSlices, s.client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll), &discovery.EndpointSlice{},
			func(o *metav1.ListOptions) { o.LabelSelector = sliceLabels }),
		handler: deliver(sink.SetEndpointSlice, func(o name) { sink.DeleteEndpointSlice(o.Namespace, o.Name) }),
		awaited: true,
	}, {
		resource: serviceCIDRs,
		informer: newInformer(s, serviceCIDRs, s.client.NetworkingV1().ServiceCIDRs(), &networking.ServiceCIDR{}, nil),
		handler:  deliver(sink.SetServiceCIDR, func(o name) { sink.DeleteServiceCIDR(o.Name) }),
	}}
	if s.opts.NodeName != "" {
		list = append(list, s.watchNode(sink))
	}
	return list
}

func (s *Source) watchNode(sink source.Sink) watch {
	return watch{
		resource: nodes,
		informer: newInformer(s, nodes, s.client.CoreV1().Nodes(), &v1.Node{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.opts.NodeName).String()
		}),
		handler: deliver(
			func(n *v1.Node) {
				if n.Name == s.opts.NodeName {
					sink.SetNode(n)
				}
			},
			func(o name) {
				if o.Name == s.opts.NodeName {
					sink.DeleteNode()
				}
			}),
	}
}

// name names a deleted object.
type name = cache.ObjectName

// object is one of the kinds that are watched.
type object interface {
	*v1.Service | *discovery.EndpointSlice | *networking.ServiceCIDR | *v1.Node
}

// deliver returns a handler that gives every object that is new, changed or repeated by a resync to set.
func deliver[T object](set func(T), remove func(name)) cache.ResourceEventHandler {
	put := func(o any) {
		if o, ok := o.(T); ok {
			set(o)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    put,
		UpdateFunc: func(_, o any) { put(o) },
		DeleteFunc: func(o any) {
			// The last state may be unknown, if the watch was interrupted; the name is all that is needed.
			if n, err := cache.DeletionHandlingObjectToName(o); err == nil {
				remove(n)
			}
		},
	}
}
