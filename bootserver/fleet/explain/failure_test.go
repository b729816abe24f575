package explain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver/fleet"
)

// root is the folder of the module.
const root = "../../.."

// parsed calls f with each Go file below a folder that is not a test.
func parsed(t *testing.T, dir string, f func(*ast.File)) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			f(file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFailures: each declared code is in the list with a sentence, is explained,
// and is reported by a machine or found in its report; no others are reported.
func TestFailures(t *testing.T) {
	declared := map[string]ingot.FailureCode{}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "failure.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		v, is := n.(*ast.ValueSpec)
		if !is || len(v.Values) != 1 {
			return true
		}
		if typ, named := v.Type.(*ast.Ident); named && typ.Name == "FailureCode" {
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			declared[v.Names[0].Name] = ingot.FailureCode(text)
		}
		return true
	})
	used := map[string]bool{}
	for _, dir := range []string{"rootfs", "cmd/ingot-init", "bootserver/fleet"} {
		parsed(t, dir, func(f *ast.File) {
			if f.Name.Name == "explain" {
				return
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, is := n.(*ast.SelectorExpr); is {
					if id, is := s.X.(*ast.Ident); is && id.Name == "ingot" && strings.HasPrefix(s.Sel.Name, "Failure") {
						used[s.Sel.Name] = true
					}
				}
				if call, is := n.(*ast.CallExpr); is {
					if s, is := call.Fun.(*ast.SelectorExpr); is && s.Sel.Name == "FailureCode" {
						t.Errorf("package %s makes a failure code that is not listed", f.Name)
					}
				}
				return true
			})
		})
	}
	delete(used, "FailureCode") // the type
	for name, code := range declared {
		if ingot.Failures[code] == "" || !code.Plausible() {
			t.Errorf("%s = %q has no sentence, or is no plausible code", name, code)
		}
		if x, has := explanations[code]; !has || x.what == "" || x.next == "" {
			t.Errorf("%s = %q has no explanation", name, code)
		}
		if !used[name] {
			t.Errorf("%s = %q is never reported", name, code)
		}
		delete(used, name)
	}
	if len(declared) < 15 || len(declared) != len(ingot.Failures) || len(declared) != len(explanations) || len(used) > 0 {
		t.Errorf("%d codes are declared, %d have sentences, %d have explanations; not declared: %v", len(declared),
			len(ingot.Failures), len(explanations), used)
	}
}

// TestWordsOfOlderImages: what images wrote that were built before failures had
// codes, word by word, is recognised.
func TestWordsOfOlderImages(t *testing.T) {
	for _, c := range []struct {
		stage ingot.Stage
		text  string
		code  ingot.FailureCode
		want  string
	}{
		{ingot.StageTicket, "the ticket's signature is not by the server key that this initramfs carries",
			ingot.FailureTicketKey, "the machine rejected its ticket. The ticket is signed by"},
		{ingot.StageTicket, "the ticket answers another request than ours (boot 01000000)", ingot.FailureTicketReplayed,
			"the machine rejected its ticket. The ticket answers another"},
		{ingot.StageTicket, "the ticket has expired: it was valid for 2m0s and took 2m5.1s to arrive",
			ingot.FailureTicketExpired, "the machine rejected its ticket. The ticket had expired"},
		{ingot.StageRoot, "the image's signature is not by the release key that this initramfs carries",
			ingot.FailureImageKey, "the machine rejected the image. Image node:7 is signed by"},
		{ingot.StageRoot, "a part of the image is not the one that was assigned: the manifest has digest 0123456789ab, " +
			"the ticket says ba9876543210", ingot.FailureImageDigest,
			"the machine rejected the image. The files served for node:7"},
		{ingot.StageRoot, "a part of the image is not the one that was assigned: its chunks have 5 bytes, its root 6",
			ingot.FailureImageDigest,
			"the machine rejected the image. The files served for node:7"},
		{ingot.StageRoot, "a chunk of the root does not match the manifest: chunk 21 of 300 (bytes 20971520–22020095)",
			ingot.FailureRootChunk, "the machine rejected the root: a chunk of the root"},
		{ingot.StageRoot, "the image needs a machine with 4096 MiB of memory, this one has 2048 MiB", ingot.FailureMemory,
			"image node:7 does not fit into the memory of this machine: the image needs"},
		{ingot.StageVolumes, "volume refused: data: no device answers to the label \"data\"; this machine has no disks. " +
			"To initialise a blank disk: ingot grant m-1 data --disk SERIAL", ingot.FailureVolume,
			"the volumes were not mounted: volume refused"},
		{ingot.StageAgent, "not healthy within 2m0s; systemd still waits for stuck.service; the machine reboots itself",
			ingot.FailureDeadline, "the system did not finish starting"},
		{ingot.StageInit, "ingot-init broke: runtime error: index out of range [3] with length 3", ingot.FailureInit,
			"the ingot-init program crashed at stage init"},
		{ingot.StageRoot, "fetching the image's signature: the server answers 404: no such image",
			"", "stage root failed: fetching"},
	} {
		e := fleet.Event{Event: ingot.Event{Stage: c.stage, Error: c.text}}
		b := fleet.Boot{Image: node7, Events: []fleet.Event{e}}
		if got := codeOf(e); got != c.code {
			t.Errorf("%q has code %q; want %q", c.text, got, c.code)
		}
		if got := reported(b, e, Story{Machine: node01()}).sentences(1); !strings.HasPrefix(got, c.want) {
			t.Errorf("%q is explained by %q; want %q", c.text, got, c.want)
		}
	}
	for _, w := range words {
		if _, has := explanations[w.code]; !has {
			t.Errorf("the words %q stand for %q, which has no explanation", w.text, w.code)
		}
	}
}

// TestCodeBeforeWords: a code decides, whatever the words are.
func TestCodeBeforeWords(t *testing.T) {
	e := fleet.Event{Event: ingot.Event{Stage: ingot.StageTicket, Error: "the ticket has expired",
		Code: ingot.FailureServerRefused}}
	if got := reported(fleet.Boot{}, e, Story{}).sentences(1); got != "stage ticket failed: the ticket has expired." {
		t.Errorf("explained by %q", got)
	}
	e.Code = "of-a-newer-image"
	if got := reported(fleet.Boot{}, e, Story{}).sentences(1); got != "stage ticket failed: the ticket has expired." {
		t.Errorf("of a code that this server does not know: explained by %q", got)
	}
}
