// Package plane runs a real Kubernetes control plane, etcd, kube-apiserver and kube-controller-manager, on a machine of its own beside
// the nodes of a lab.
//
// Start returns it when it answers:
//
//	l := lab.ForTest(t)
//	p := plane.Start(t, l, plane.Options{})
//	p.RegisterNodes(ctx)                                      // Node objects of n1 and n2, as their kubelets would make them
//	p.RunPod(ctx, plane.Pod{Namespace: "default", Name: "web-1", Host: "pod-1", Labels: map[string]string{"app": "web"}})
//	p.Admin.CoreV1().Services("default").Create(…)            // the controllers make the EndpointSlices
//	kubeconfig, err := p.Kubeconfig("proxy", plane.NodeProxy) // for user system:kube-proxy, with a client certificate
//	config, err := p.ProxyConfig("config.conf", kubeconfig, nil)
//	proxy, err := plane.Run(l.Node(), p.Path("proxy.log"), binary, "--config="+config, "--hostname-override=n1")
//
// Programs on nodes reach the API server through Front, which tests can cut or shut, while Admin goes to the API server itself. So
// objects can be changed while the proxy is cut off. The API server can also be stopped, killed and started again, certificates
// and tokens be renewed, and Requests tells from the audit log what a user asked for and was refused.
//
// Everything is in network namespaces and in one folder, and ends with the test and the process.
package plane
