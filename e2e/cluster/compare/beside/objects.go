package beside

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// writers is how many objects are written at the same time.
const writers = 16

// Set makes objects, Services with their status and EndpointSlices, or replaces those of the same name. It changes what it is given as
// little as a client of the API does; objects must not be modified afterwards.
func (c *Cluster) Set(ctx context.Context, objects ...metav1.Object) error {
	for _, o := range objects {
		c.set[key(o)] = o
	}
	return each(ctx, objects, func(ctx context.Context, o metav1.Object) error { return c.write(ctx, o) })
}

// Remove deletes objects that Set made; others it ignores.
func (c *Cluster) Remove(ctx context.Context, objects ...metav1.Object) error {
	for _, o := range objects {
		delete(c.set, key(o))
	}
	return each(ctx, objects, c.remove)
}

// Clear removes everything that Set made or, where it failed, may have made.
func (c *Cluster) Clear(ctx context.Context) error {
	clear(c.set)
	var all []metav1.Object
	for _, namespace := range append([]string{"default"}, Namespaces...) {
		services, err := c.Admin.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list Services: %w", err)
		}
		endpoints, err := c.Admin.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list EndpointSlices: %w", err)
		}
		for i := range services.Items {
			all = append(all, &services.Items[i])
		}
		for i := range endpoints.Items {
			all = append(all, &endpoints.Items[i])
		}
	}
	// The API server makes these two again.
	own := func(o metav1.Object) bool { return o.GetNamespace() == "default" && o.GetName() == "kubernetes" }
	return each(ctx, slices.DeleteFunc(all, own), c.remove)
}

// Objects returns what Set made and Remove has not removed, in the order of their kinds and names.
func (c *Cluster) Objects() []metav1.Object {
	keys := make([]string, 0, len(c.set))
	for k := range c.set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]metav1.Object, len(keys))
	for i, k := range keys {
		out[i] = c.set[k]
	}
	return out
}

func key(o metav1.Object) string {
	return fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName())
}

// each calls fn for all objects, several at a time, and returns the first error.
func each(ctx context.Context, objects []metav1.Object, fn func(context.Context, metav1.Object) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, o := range objects {
		group.Go(func() error { return fn(ctx, o) })
	}
	return group.Wait()
}

func (c *Cluster) write(ctx context.Context, o metav1.Object) error {
	var err error
	switch o := o.(type) {
	case *v1.Service:
		err = c.writeService(ctx, o)
	case *discovery.EndpointSlice:
		err = c.writeSlice(ctx, o)
	default:
		panic(fmt.Sprintf("beside: cannot write a %T", o))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", key(o), err)
	}
	return nil
}

func (c *Cluster) remove(ctx context.Context, o metav1.Object) error {
	var err error
	switch o := o.(type) {
	case *v1.Service:
		err = c.Admin.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	case *discovery.EndpointSlice:
		err = c.Admin.DiscoveryV1().EndpointSlices(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	default:
		panic(fmt.Sprintf("beside: cannot remove a %T", o))
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove %s: %w", key(o), err)
	}
	return nil
}

// writeService makes or updates a Service, then its status. A change that no update may make, such as of the first ClusterIP, is made
// by deleting it first.
func (c *Cluster) writeService(ctx context.Context, want *v1.Service) error {
	api := c.Admin.CoreV1().Services(want.Namespace)
	// What is not there is made, but that is tried second: addresses that it has already would be refused before its name.
	got, err := api.Update(ctx, want, metav1.UpdateOptions{})
	if apierrors.IsInvalid(err) {
		if err := c.remove(ctx, want); err != nil {
			return err
		}
	}
	if apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
		got, err = api.Create(ctx, want, metav1.CreateOptions{})
	}
	if err != nil || want.Spec.Type != v1.ServiceTypeLoadBalancer {
		return err
	}
	got.Status = *want.Status.DeepCopy()
	_, err = api.UpdateStatus(ctx, got, metav1.UpdateOptions{})
	return err
}

func (c *Cluster) writeSlice(ctx context.Context, want *discovery.EndpointSlice) error {
	api := c.Admin.DiscoveryV1().EndpointSlices(want.Namespace)
	_, err := api.Update(ctx, want, metav1.UpdateOptions{})
	if apierrors.IsInvalid(err) {
		if err := c.remove(ctx, want); err != nil {
			return err
		}
	}
	if apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	}
	return err
}
