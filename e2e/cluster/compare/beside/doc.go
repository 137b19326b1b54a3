// Package beside runs proxies beside each other: each on the node of a lab of its own, all with the objects of one control plane.
//
//	c, err := beside.New("")                       // the control plane
//	a, err := c.NewSide("turnout", program)        // a lab; its node has the name and addresses of every other side's
//	b, err := c.NewSide("kube-proxy", another)
//	err = c.Set(ctx, objects…)                     // Services and EndpointSlices, as an API server accepts them
//	err = errors.Join(a.Start("--config="+file), b.Start("--config="+file))
//	err = c.Settle(ctx, a, b)                      // both kernels follow the objects
//
// Whether a proxy follows is told by packets alone, so that it does not matter which proxy it is.
package beside
