package bootserver

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/httpboot"
)

// TestMetrics: names and units are as Prometheus wants them, values are those
// of a boot, and a crowd of strangers makes no more series.
func TestMetrics(t *testing.T) {
	s := newStreet(t)
	s.server.http = httpboot.New(s.Booter, s.log)
	s.web.Config.Handler = s.server.http
	im := s.put("v1")
	key := s.boots(firstMachine)
	for _, q := range slices.Backward(bootRequests(key.ID(), im)) { // files, and then the report that ends it
		s.do(q.method, s.base+ingot.BootPath(key, q.part), q.body)
	}
	c := s.caller("prometheus", s.token("t", access.Read), "")
	scrape := func() string {
		status, _, text := c.ask(t, "GET", "/metrics", "")
		if status != 200 {
			t.Fatalf("GET /metrics = %d %s", status, text)
		}
		return string(text)
	}
	for _, name := range []string{"ingot_", "go_", "process_"} {
		if !strings.Contains(scrape(), "\n"+name) {
			t.Errorf("there is no %s…", name)
		}
	}
	text := scrape()
	for _, line := range []string{`ingot_machines{state="approved"} 1`, `ingot_machines{state="pending"} 0`,
		`ingot_boots_ended_total{outcome="failed"} 1`,
		`ingot_boots_open 0`, `ingot_credentials 1`, `ingot_ready 1`, `ingot_build_info{version="test"} 1`,
		fmt.Sprintf("ingot_http_served_bytes_total %d",
			len("kernel of v1")+len("initramfs of v1")+len("root of v1")+len("uki of v1")+len(im.OCI)+len(im.Signature)+
				configSize(t, s, im.Config))} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the metrics do not say %s:\n%s", line, ours(text))
		}
	}
	problems, err := testutil.GatherAndLint(s.server.metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "ingot_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	before := strings.Count(ours(scrape()), "\n")
	s.crowd(500)
	for i := range 50 {
		c.ask(t, "GET", fmt.Sprintf("/v1/machines/m-%012x", i), "")
		c.ask(t, "GET", fmt.Sprintf("/v1/%d", i), "")
	}
	// Three routes and statuses that were not asked before, with a histogram each.
	if after := strings.Count(ours(scrape()), "\n"); after > before+3*12 {
		t.Errorf("500 machines and 100 requests made %d series out of %d", after, before)
	}
}

// ours are the lines of metrics that are ingot's.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "ingot_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func configSize(t *testing.T, s *street, d ingot.Digest) int {
	t.Helper()
	info, err := os.Stat(s.images.Blob(d))
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Size())
}
