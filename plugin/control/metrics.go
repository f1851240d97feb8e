package control

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"strata/backend/store"
	"strata/plugin"
)

// Metrics counts what the process does, for Prometheus, in a registry of its own. It is safe for
// concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	errors   *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
}

// NewMetrics makes the metrics of a process whose store is what the function returns when asked;
// its error means that there is none yet.
func NewMetrics(v Version, open func(ctx context.Context) (Store, error)) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "strata_calls_total", Help: "Calls of clients, by protocol: graphdriver (Docker), snapshots and diff (containerd)."}, []string{"protocol", "op"}),
		errors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "strata_errors_total", Help: "Calls that failed, by class of error."}, []string{"protocol", "op", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "strata_call_duration_seconds", Help: "How long calls took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10), // half a millisecond to two minutes
		}, []string{"protocol", "op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "strata_bytes_total", Help: "Bytes of layers, in from and out to the client: tars, and compressed ones out to containerd."}, []string{"protocol", "op", "direction"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "strata_build_info", Help: "Always 1; the labels say which program this is.",
		ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "go": v.Go},
	})
	build.Set(1)
	m.registry.MustRegister(m.calls, m.errors, m.seconds, m.bytes, build, newStoreCollector(open),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// ObserveCall counts a call.
func (m *Metrics) ObserveCall(c plugin.Call) {
	m.calls.WithLabelValues(c.Protocol, c.Op).Inc()
	m.seconds.WithLabelValues(c.Protocol, c.Op).Observe(c.Took.Seconds())
	if c.In > 0 {
		m.bytes.WithLabelValues(c.Protocol, c.Op, "in").Add(float64(c.In))
	}
	if c.Out > 0 {
		m.bytes.WithLabelValues(c.Protocol, c.Op, "out").Add(float64(c.Out))
	}
	if c.Err != nil {
		m.errors.WithLabelValues(c.Protocol, c.Op, cmp.Or(plugin.Class(c.Err), "other")).Inc()
	}
}

var _ plugin.Observer = (*Metrics)(nil)

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// scrapeTimeout is how long a scrape waits for the store. Prometheus itself waits ten seconds by default.
const scrapeTimeout = 5 * time.Second

// storeCollector asks the store when it is scraped, so that nothing has to be kept in step.
type storeCollector struct {
	open                                func(ctx context.Context) (Store, error)
	up, info, layers, mounts, deletions *prometheus.Desc
}

func newStoreCollector(open func(ctx context.Context) (Store, error)) *storeCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("strata_"+name, help, labels, nil)
	}
	return &storeCollector{
		open:      open,
		up:        desc("store_open", "1 if a store is open, 0 before the first client has asked for it."),
		info:      desc("store_info", "Always 1; the labels describe the store.", "root", "uuid", "backend", "sync", "exact_diffs", "format"),
		layers:    desc("layers", "Layers by state.", "state"),
		mounts:    desc("mounts", "Layers that are mounted."),
		deletions: desc("deletions_pending", "Removed layers whose data is not deleted yet."),
	}
}

// Describe implements prometheus.Collector.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.up, c.info, c.layers, c.mounts, c.deletions} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	s, err := c.open(ctx)
	if err != nil {
		gauge(c.up, 0)
		return
	}
	i, err := s.Info(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.up, err)
		return
	}
	gauge(c.up, 1)
	gauge(c.info, 1, i.Root, i.UUID, i.Backend, string(i.Sync), strconv.FormatBool(i.ExactDiffs), strconv.Itoa(i.Format))
	for _, state := range []store.State{store.StateCreating, store.StateReady, store.StateApplying, store.StateRemoving} {
		gauge(c.layers, i.Layers[state], string(state))
	}
	gauge(c.mounts, i.Mounted)
	gauge(c.deletions, i.Deleting)
}
