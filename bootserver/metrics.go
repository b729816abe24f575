package bootserver

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/notify"
	"ingot/bootserver/state"
)

// metrics are what Prometheus scrapes. No label holds what a stranger or a
// machine chose: there are as many series with a million machines as with one.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec   // of the API, by route and status
	took     *prometheus.HistogramVec // by route
}

func newMetrics(version string, figures func() figures) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ingot_api_requests_total",
			Help: "Requests to the API."}, []string{"route", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "ingot_api_request_duration_seconds",
			Help:    "Time from a request to the API to its answer.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10}}, []string{"route"})}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ingot_build_info",
		Help: "Always 1; the version is in the label.", ConstLabels: prometheus.Labels{"version": version}}, func() float64 {
		return 1
	})
	m.registry.MustRegister(m.requests, m.took, build, collector{figures}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// seen counts one request to the API.
func (m *metrics) seen(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.took.WithLabelValues(route).Observe(took.Seconds())
}

// handler serves the metrics.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// figures are what is measured at one moment.
type figures struct {
	ready   bool
	state   state.Counts
	live    int // credentials
	http    httpboot.Counts
	dropped uint64 // packets
	leases  int
	foreign int // other DHCP servers that were heard
	// interfaces of the configuration that are not served
	unserved int
	volumes  map[ingot.VolumeProblem]uint64
	webhooks webhookFigures
}

// webhookFigures are those of all webhooks together.
type webhookFigures struct {
	states map[string]int
	letter int // dead letters
	behind uint64
	counts notify.Counts
}

// collector measures when it is scraped.
type collector struct{ figures func() figures }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ingot_"+name, help, labels, nil)
}

var (
	descMachines  = describe("machines", "Machines that are known, by state.", "state")
	descOpen      = describe("boots_open", "Boots under way.")
	descBoots     = describe("boots_ended_total", "Boots that ended since the server started, by outcome.", "outcome")
	descServed    = describe("http_served_bytes_total", "Bytes of artifacts sent to machines.")
	descTransfers = describe("http_transfers", "Artifacts being sent.")
	descRefused   = describe("http_refused_total", "Machines that were asked to come back later.")
	descLeases    = describe("dhcp_leases", "Addresses that are lent.")
	descForeign   = describe("dhcp_foreign_servers", "Other DHCP servers that were heard.")
	descUnserved  = describe("interfaces_not_served", "Interfaces of the configuration that are not served.")
	descDropped   = describe("ledger_packets_dropped_total",
		"DHCP packets that the ledger lacks, because too many came at once or they could not be stored.")
	descState   = describe("state_file_bytes", "Size of the state file.")
	descVolumes = describe("volume_problems_total",
		"Volumes that machines could not use, by problem, since the server started.", "problem")
	descWebhooks = describe("webhooks", "Webhooks, by state.", "state")
	descBehind   = describe("webhook_behind_entries",
		"Entries of the ledger that the webhook which is furthest behind has not seen, wanted or not.")
	descLetters = describe("webhook_dead_letters", "Events that were given up, of all webhooks.")
	descEvents  = describe("webhook_attempts_total",
		"Attempts to send events, by result, since the server started.", "result")
	descDead   = describe("webhook_dead_total", "Events that became dead letters since the server started.")
	descTokens = describe("credentials", "Tokens and client certificates that may be used.")
	descReady  = describe("ready", "1 when machines are served.")
)

// outcomes are how boots end.
var outcomes = []ingot.Outcome{ingot.OutcomeHealthy, ingot.OutcomeFailed, ingot.OutcomeSilent, ingot.OutcomeWaiting}

// Describe implements prometheus.Collector.
func (collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descMachines, descOpen, descBoots, descServed, descTransfers, descRefused,
		descLeases, descForeign, descUnserved, descDropped, descState, descVolumes, descTokens, descReady, descWebhooks,
		descBehind, descLetters, descEvents, descDead} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	f := c.figures()
	ready := 0.0
	if f.ready {
		ready = 1
	}
	gauge(descReady, ready)
	for _, is := range []fleet.State{fleet.Pending, fleet.Approved, fleet.Retired} {
		gauge(descMachines, float64(f.state.Machines[is]), string(is))
	}
	gauge(descOpen, float64(f.state.Open))
	for _, o := range outcomes {
		count(descBoots, float64(f.state.Ended[o]), string(o))
	}
	gauge(descState, float64(f.state.FileBytes))
	gauge(descTokens, float64(f.live))
	count(descServed, float64(f.http.Bytes))
	gauge(descTransfers, float64(f.http.Transfers))
	count(descRefused, float64(f.http.Refused))
	count(descDropped, float64(f.dropped))
	for _, p := range append([]ingot.VolumeProblem{""}, ingot.VolumeProblems...) {
		count(descVolumes, float64(f.volumes[p]), cmp.Or(string(p), "unknown"))
	}
	for _, state := range []string{"ok", "waiting", "failing", "paused"} {
		gauge(descWebhooks, float64(f.webhooks.states[state]), state)
	}
	gauge(descBehind, float64(f.webhooks.behind))
	gauge(descLetters, float64(f.webhooks.letter))
	count(descEvents, float64(f.webhooks.counts.Sent), "accepted")
	count(descEvents, float64(f.webhooks.counts.Failed), "failed")
	count(descDead, float64(f.webhooks.counts.Dead))
	gauge(descLeases, float64(f.leases))
	gauge(descForeign, float64(f.foreign))
	gauge(descUnserved, float64(f.unserved))
}
