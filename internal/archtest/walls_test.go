package archtest

import (
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// Foreign packages that never get into an initramfs: databases, the command line, registries,
// metrics, YAML.
var serverOnly = []string{"github.com/spf13", "go.etcd.io", "oras.land", "github.com/google/go-containerregistry",
	"github.com/opencontainers", "github.com/prometheus", "go.yaml.in", "github.com/danielgtaylor/huma"}

// walls: what is at or below from must not depend, directly or not, on what is at or below any of
// not.
var walls = []struct {
	from string
	not  []string
}{
	// The builder and the server meet at image.
	{"ingot/builder", []string{"ingot/bootserver", "ingot/rootfs/initrd", "ingot/rootfs/agent", "ingot/testvm",
		"ingot/cmd"}},
	{"ingot/bootserver", []string{"ingot/builder", "ingot/rootfs", "ingot/testvm", "ingot/cmd", "ingot/profiles"}},
	{"ingot/image", []string{"ingot/builder", "ingot/bootserver", "ingot/rootfs", "ingot/testvm", "ingot/profiles"}},
	{"ingot/profiles", []string{"ingot/builder", "ingot/bootserver", "ingot/rootfs", "ingot/image", "ingot/testvm"}},
	// What is in every initramfs stays small.
	{"ingot/rootfs", []string{"ingot/builder", "ingot/bootserver", "ingot/image", "ingot/profiles", "ingot/testvm"}},
	{"ingot/rootfs", serverOnly},
	{"ingot/cmd/ingot-init", []string{"ingot/builder", "ingot/bootserver", "ingot/image", "ingot/profiles",
		"ingot/testvm"}},
	{"ingot/cmd/ingot-init", serverOnly},
	{"ingot/internal/yamlfile", []string{"ingot/image", "ingot/profiles", "ingot/builder", "ingot/bootserver"}},
	// The server's rooms.
	{"ingot/bootserver", []string{"oras.land", "github.com/google/go-containerregistry"}},
	{"ingot/bootserver/dhcp4", []string{"ingot/bootserver/dhcp6"}},
	{"ingot/bootserver/dhcp6", []string{"ingot/bootserver/dhcp4"}},
	{"ingot/bootserver/client", []string{"ingot/bootserver/dhcp4", "ingot/bootserver/dhcp6", "ingot/bootserver/tftp",
		"ingot/bootserver/ipxe", "ingot/bootserver/httpboot", "ingot/bootserver/network", "ingot/bootserver/lease"}},
	{"ingot/bootserver/api", append([]string{"ingot/bootserver/fleet", "ingot/bootserver/state"}, protocols...)},
	{"ingot/bootserver/api", []string{"ingot/bootserver/client", "ingot/bootserver/network", "ingot/bootserver/lease"}},
	// The dashboard is a client of the API that runs in the server.
	{"ingot/bootserver/web", append([]string{"ingot/bootserver/state", "ingot/bootserver/operator",
		"ingot/bootserver/booter", "ingot/bootserver/catalog", "ingot/bootserver/config", "ingot/image"}, protocols...)},
	{"ingot/bootserver/network", []string{"ingot/bootserver/dhcp4", "ingot/bootserver/dhcp6", "ingot/bootserver/state"}},
	{"ingot/cmd/ingot/client", protocols},
	{"ingot/bootserver/fleet", append([]string{"ingot/bootserver/state", "ingot/bootserver/api", "ingot/bootserver/access",
		"ingot/bootserver/catalog", "ingot/bootserver/config", "ingot/image", "go.etcd.io"}, protocols...)},
	{"ingot/bootserver/booter", []string{"ingot/bootserver/operator", "ingot/bootserver/api"}},
	{"ingot/bootserver/operator", []string{"ingot/bootserver/booter"}},
	{"ingot/bootserver/catalog", []string{"ingot/bootserver/booter", "ingot/bootserver/operator", "ingot/bootserver/api"}},
	{"ingot/bootserver/state", []string{"ingot/bootserver/booter", "ingot/bootserver/operator",
		"ingot/bootserver/catalog", "ingot/bootserver/api"}},
	{"ingot/bootserver/tftp", []string{"ingot/image", "ingot/bootserver/fleet", "ingot/bootserver/state",
		"ingot/bootserver/dhcp4", "ingot/bootserver/dhcp6"}},
	// The lab and the tests' helpers.
	{"ingot/testvm", []string{"ingot/builder", "ingot/rootfs"}},
	{"ingot/bootserver", []string{"ingot/internal/wire"}},
	{"ingot/builder", []string{"ingot/internal/wire"}},
	{"ingot/rootfs", []string{"ingot/internal/wire"}},
	{"ingot/cmd", []string{"ingot/internal/wire"}},
}

// protocols are the packages that talk to machines before Linux runs.
var protocols = []string{"ingot/bootserver/dhcp4", "ingot/bootserver/dhcp6", "ingot/bootserver/tftp",
	"ingot/bootserver/ipxe", "ingot/bootserver/httpboot", "ingot/bootserver/capture",
	"github.com/insomniacslk/dhcp/dhcpv4", "github.com/insomniacslk/dhcp/dhcpv6", "github.com/pin/tftp"}

func TestWalls(t *testing.T) {
	v := newViolations("wall")
	g := packages(t)
	for _, w := range walls {
		checked := 0
		for _, from := range g.own() {
			if !below(from, w.from) {
				continue
			}
			checked++
			for _, not := range w.not {
				if chain := g.path(from, func(p string) bool { return below(p, not) }); chain != nil {
					v.add(from+" "+not, "must not depend on it: "+arrows(chain))
				}
			}
		}
		if checked == 0 {
			t.Errorf("a wall is around %s, which does not exist; correct the list", w.from)
		}
	}
	v.report(t)
}

// formats are packages that know nothing of ingot: what each may import of this module. They could move to another
// module as they are.
var formats = map[string][]string{
	"ingot/builder/tree":      nil,
	"ingot/builder/squashfs":  nil,
	"ingot/builder/initramfs": {"ingot/builder/tree"}, // it reads kernel modules from a tree
	"ingot/builder/verity":    nil,
	"ingot/builder/uki":       nil,
	"ingot/builder/bootdisk":  nil,
}

func TestFormats(t *testing.T) {
	g := packages(t)
	for p, may := range formats {
		if _, ok := g[p]; !ok {
			t.Errorf("%s is not there; correct the list of formats", p)
			continue
		}
		for _, i := range g[p].Imports {
			if below(i, module) && !slices.Contains(may, i) {
				t.Errorf("%s imports %s; a format imports no package of this module", p, i)
			}
		}
	}
}

// importers: a package, with what is below it, is imported by production code at or below these
// alone.
var importers = []struct {
	pkg  string
	only []string
}{
	{"go.etcd.io/bbolt", []string{"ingot/bootserver/state/bolt"}},
	{"go.etcd.io/etcd", []string{"ingot/bootserver/state/etcd"}},
	{"oras.land", []string{"ingot/image/registry"}},
	// Tests alone use it, as a second opinion about images.
	{"github.com/google/go-containerregistry", []string{"ingot/builder/buildertest"}},
	{"github.com/pin/tftp", []string{"ingot/bootserver/tftp", "ingot/cmd/ingot/doctor"}},
	{"ingot/testvm", []string{"ingot/testvm", "ingot/cmd/ingot/lab", "ingot/cmd/ingot/demo"}},
	{"ingot/testbuild", []string{"ingot/testbuild"}},
	{"ingot/bootserver/state/memory", []string{"ingot/bootserver/state/memory", "ingot/bootserver/state/statetest"}},
	{"ingot/bootserver/booter", []string{"ingot/bootserver/booter"}},
	// images changes a store of which no server runs.
	{"ingot/bootserver/operator", []string{"ingot/bootserver/operator", "ingot/cmd/ingot/images"}},
}

func TestImporters(t *testing.T) {
	v := newViolations("importer")
	g := packages(t)
	for _, rule := range importers {
		for _, p := range g.own() {
			if slices.ContainsFunc(rule.only, func(room string) bool { return below(p, room) }) {
				continue
			}
			// bootserver joins its rooms: the package itself may import any of them, those below it may not.
			if below(rule.pkg, "ingot/bootserver") && p == "ingot/bootserver" {
				continue
			}
			for _, i := range g[p].Imports {
				if below(i, rule.pkg) {
					v.add(p+" "+rule.pkg, p+" -> "+i+": only "+strings.Join(rule.only, ", ")+" may import it")
				}
			}
		}
	}
	v.report(t)
}

// TestRooms: between the top-level folders, and between the rooms of bootserver, all imports run
// one way. Go forbids cycles of packages; a cycle of folders means that nobody can say which of
// them is the lower one.
func TestRooms(t *testing.T) {
	v := newViolations("cycle")
	g := packages(t)
	room := func(p string) string { // the top-level folder, or bootserver/X
		parts := strings.Split(p, "/")
		switch {
		case len(parts) == 1:
			return p
		case len(parts) > 2 && parts[1] == "bootserver":
			return path.Join(parts[:3]...)
		}
		return path.Join(parts[:2]...)
	}
	edges := map[string]map[string]string{} // room, room, the import
	for _, p := range g.own() {
		for _, i := range g[p].Imports {
			from, to := room(p), room(i)
			if !below(i, module) || from == to {
				continue
			}
			if edges[from] == nil {
				edges[from] = map[string]string{}
			}
			edges[from][to] = p + " -> " + i
		}
	}
	for from := range edges {
		for to, first := range edges[from] {
			if back := roomPath(edges, to, from); back != nil && from < to {
				v.add(from+" "+to, first+", and back: "+strings.Join(back, ", "))
			}
		}
	}
	v.report(t)
}

// roomPath returns the imports that lead from one room to another, or nil.
func roomPath(edges map[string]map[string]string, from, to string) []string {
	paths := map[string][]string{from: {}}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at == to {
			return paths[at]
		}
		for _, next := range slices.Sorted(maps.Keys(edges[at])) {
			if _, seen := paths[next]; !seen {
				paths[next] = append(slices.Clone(paths[at]), edges[at][next])
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// TestParents: a room of bootserver does not import bootserver, which joins them; it is given what
// it needs.
func TestParents(t *testing.T) {
	g := packages(t)
	for _, p := range g.own() {
		if p == "ingot/bootserver" || !below(p, "ingot/bootserver") {
			continue
		}
		if chain := g.path(p, func(i string) bool { return i == "ingot/bootserver" }); chain != nil {
			t.Errorf("a room of bootserver imports it: %s", arrows(chain))
		}
	}
}

// TestDictionary: the root package is for everybody, so it costs nothing.
func TestDictionary(t *testing.T) {
	for _, i := range packages(t)[module].Imports {
		if strings.Contains(i, ".") || below(i, module) || slices.Contains(inputOutput, i) {
			t.Errorf("the dictionary must do no I/O and import only the standard library, but imports %s", i)
		}
	}
}

// inputOutput are the packages of the standard library that reach outside the process.
var inputOutput = []string{"os", "os/exec", "os/signal", "net", "net/http", "io/fs", "io/ioutil", "syscall", "log",
	"log/slog"}

// TestFleetDecides: fleet gets facts and the time as values, and returns values.
func TestFleetDecides(t *testing.T) {
	v := newViolations("fleet")
	g := packages(t)
	for _, p := range g.own() {
		if !below(p, "ingot/bootserver/fleet") {
			continue
		}
		for _, i := range g[p].Imports {
			if slices.Contains(inputOutput, i) || slices.Contains([]string{"math/rand", "math/rand/v2", "crypto/rand"}, i) {
				v.add(p+" "+i, p+" must not import "+i+": fleet does no I/O and draws no random numbers")
			}
		}
	}
	for _, s := range sources(t) {
		if s.isTest() || !below(s.pkg(), "ingot/bootserver/fleet") {
			continue
		}
		for call, at := range timeCalls(s) {
			v.add(path.Base(s.path)+" time."+call, at+": fleet knows no clock; take the time as an argument")
		}
	}
	v.report(t)
}

// timeCalls finds the uses of the clock in a file, by name, with the place of the last one.
func timeCalls(s source) map[string]string {
	found := map[string]string{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		clock := []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"}
		if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(clock, sel.Sel.Name) {
			found[sel.Sel.Name] = s.fset.Position(sel.Pos()).String()
		}
		return true
	})
	return found
}
