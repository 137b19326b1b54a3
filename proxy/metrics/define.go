package metrics

import k8s "k8s.io/component-base/metrics"

// definer collects metrics as they are made.
type definer struct {
	defined []k8s.Registerable
}

func (d *definer) gauge(name, help string, labels ...string) *k8s.GaugeVec {
	g := k8s.NewGaugeVec(&k8s.GaugeOpts{Name: name, Help: help, StabilityLevel: k8s.ALPHA}, labels)
	d.defined = append(d.defined, g)
	return g
}

func (d *definer) counter(name, help string, labels ...string) *k8s.CounterVec {
	c := k8s.NewCounterVec(&k8s.CounterOpts{Name: name, Help: help, StabilityLevel: k8s.ALPHA}, labels)
	d.defined = append(d.defined, c)
	return c
}

func (d *definer) histogram(name, help string, buckets []float64, labels ...string) *k8s.HistogramVec {
	h := k8s.NewHistogramVec(&k8s.HistogramOpts{Name: name, Help: help, Buckets: buckets, StabilityLevel: k8s.ALPHA}, labels)
	d.defined = append(d.defined, h)
	return h
}

// milliseconds are the buckets of times that start in the order of 1 ms: 1 ms to 16.384 s.
func milliseconds() []float64 { return k8s.ExponentialBuckets(0.001, 2, 15) }

// programmingBuckets are those of the network programming latency SLO, in seconds. MergeBuckets puts a bucket of 0 before
// them, which kube-proxy has as well.
func programmingBuckets() []float64 {
	return k8s.MergeBuckets(
		k8s.LinearBuckets(0.25, 0.25, 2),
		k8s.LinearBuckets(1, 1, 59),
		k8s.LinearBuckets(60, 5, 12),
		k8s.LinearBuckets(120, 30, 7),
	)
}
