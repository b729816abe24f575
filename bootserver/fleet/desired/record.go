package desired

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// Record is the desired state as it is stored: one record, which flips when files are applied. What the
// machines have of it follows.
type Record struct {
	Generation uint64 // 1 for the first; 0: nothing was ever applied
	At         time.Time
	By         fleet.Actor
	Content    []byte // of Content.Pack
	// Following: machines do not have all of it yet.
	Following bool
	Problems  []string // why some machines could not follow; at most MaxProblems
}

// MaxProblems limits the problems of a Record.
const MaxProblems = 40

// MaxContent limits the bytes of a Record's content, so that it fits into one transaction.
const MaxContent = 640 << 10

// Content is what a Record holds. Once the machines have followed, it has what the next files are compared
// with.
type Content struct {
	Spec Spec
	// Images of the Spec, by the words for them: a tag that is moved later changes nothing.
	Images map[string]fleet.ImageRef
	Owned  []Owned // what files gave to machines
	Prune  []Owned // what is taken from machines that still have it
	// Idle: the assignments are of earlier files. They are only remembered.
	Idle bool
	Options
}

// Options say how files are applied.
type Options struct {
	Prune  bool `json:"prune,omitempty"`  // remove what earlier files gave, and these lack
	Forget bool `json:"forget,omitempty"` // with Prune, also machines
	Force  bool `json:"force,omitempty"`  // although accounts have other numbers than in the image that runs
	Retry  bool `json:"retry,omitempty"`  // start rollouts again that were aborted
}

// Owned is what files gave to one machine.
type Owned struct {
	Machine ingot.MachineID   `json:"machine"`
	Listed  bool              `json:"listed,omitempty"` // in the section machines
	Labels  map[string]string `json:"labels,omitempty"` // there
	Set     map[string]string `json:"set,omitempty"`    // in the section labels
	Pin     *string           `json:"pin,omitempty"`    // the reason
}

func (o Owned) empty() bool { return !o.Listed && len(o.Labels)+len(o.Set) == 0 && o.Pin == nil }

// content is the stored form. Names of fields here are those of files.
type content struct {
	V       int                       `json:"v"`
	Spec    Spec                      `json:"spec"`
	Images  map[string]fleet.ImageRef `json:"images,omitempty"`
	Owned   []Owned                   `json:"owned,omitempty"`
	Prune   []Owned                   `json:"pruned,omitempty"`
	Idle    bool                      `json:"idle,omitempty"`
	Options Options                   `json:"options,omitzero"`
}

const contentVersion = 1

// ErrContent means that the content of a Record cannot be read.
var ErrContent = errors.New("the desired state cannot be read")

// ErrTooMuch means that files say more than a Record holds.
var ErrTooMuch = errors.New("the files say more than the server stores")

// Pack returns the content as a Record stores it.
func (c Content) Pack() ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	err := json.NewEncoder(z).Encode(content{contentVersion, c.Spec, c.Images, c.Owned, c.Prune, c.Idle, c.Options})
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, err
	}
	if b.Len() > MaxContent {
		return nil, fmt.Errorf("%w: %d KiB compressed; at most %d KiB", ErrTooMuch, b.Len()>>10, MaxContent>>10)
	}
	return b.Bytes(), nil
}

// Unpack reads what Pack wrote. Nothing is the content of a Record that was never written.
func Unpack(b []byte) (Content, error) {
	if len(b) == 0 {
		return Content{}, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return Content{}, fmt.Errorf("%w: %w", ErrContent, err)
	}
	const most = 32 * MaxBytes
	text, err := io.ReadAll(io.LimitReader(z, most))
	if err != nil {
		return Content{}, fmt.Errorf("%w: %w", ErrContent, err)
	}
	var c content
	if err := json.Unmarshal(text, &c); err != nil {
		return Content{}, fmt.Errorf("%w: %w", ErrContent, err)
	}
	if c.V != contentVersion {
		return Content{}, fmt.Errorf("%w: a newer ingot wrote it (version %d)", ErrContent, c.V)
	}
	return Content{c.Spec, c.Images, c.Owned, c.Prune, c.Idle, c.Options}, nil
}

// Done returns the content once machines have followed: without what they were to get.
func (c Content) Done() Content {
	c.Spec.Machines, c.Spec.Labels, c.Spec.Pins = nil, nil, nil
	c.Prune, c.Idle, c.Options = nil, false, Options{}
	return c
}

// Same reports whether two contents say the same, for those who apply files next.
func (c Content) Same(other Content) bool {
	a, err := json.Marshal(c.lasting())
	b, err2 := json.Marshal(other.lasting())
	return err == nil && err2 == nil && bytes.Equal(a, b)
}

func (c Content) lasting() content {
	c = c.Done()
	return content{contentVersion, c.Spec, c.Images, c.Owned, nil, false, Options{}}
}
