package show

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Progress shows the steps of a long command: bars on a terminal, a line per
// finished step elsewhere. Its zero value shows nothing.
type Progress struct {
	mu    sync.Mutex
	w     io.Writer
	bars  *mpb.Progress // nil: plain lines
	steps map[string]*step
	order []string
}

type step struct {
	bar   *mpb.Bar
	start time.Time
	note  atomic.Pointer[string] // read by the drawing goroutine
	done  bool
}

// NewProgress shows progress on w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, steps: map[string]*step{}}
	if IsTerminal(w) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(32), mpb.WithRefreshRate(120*time.Millisecond))
	}
	return p
}

// Step reports that the named step has done so many of total units; total 0
// means unknown. A step is finished when done reaches a total above 0 or
// when Finish is called.
func (p *Progress) Step(name string, done, total int64, note string) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.steps[name]
	if s == nil {
		s = &step{start: time.Now()}
		p.steps[name] = s
		p.order = append(p.order, name)
		if p.bars != nil {
			s.bar = p.addBar(name, s)
		}
	}
	if s.done {
		return
	}
	if note != "" {
		s.note.Store(&note)
	}
	if s.bar != nil {
		s.bar.SetTotal(max(total, done+1), false)
		s.bar.SetCurrent(done)
	}
	if total > 0 && done >= total {
		p.finish(name, s)
	}
}

// Finish ends every step that is still open.
func (p *Progress) Finish() {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	for _, name := range p.order {
		p.finish(name, p.steps[name])
	}
	p.mu.Unlock()
	if p.bars != nil {
		p.bars.Wait()
	}
}

// Abort stops drawing; the error that follows is printed below.
func (p *Progress) Abort() {
	if p.w == nil || p.bars == nil {
		return
	}
	p.mu.Lock()
	for _, s := range p.steps {
		if s.bar != nil && !s.done {
			s.bar.Abort(false)
		}
	}
	p.mu.Unlock()
	p.bars.Wait()
}

func (p *Progress) finish(name string, s *step) {
	if s.done {
		return
	}
	s.done = true
	if s.bar != nil {
		s.bar.SetTotal(-1, true)
		return
	}
	line := fmt.Sprintf("%-12s %6.1f s", name, time.Since(s.start).Seconds())
	if note := s.note.Load(); note != nil {
		line += "  " + *note
	}
	fmt.Fprintln(p.w, line)
}

func (p *Progress) addBar(name string, s *step) *mpb.Bar {
	note := func(decor.Statistics) string {
		if n := s.note.Load(); n != nil {
			return "  " + *n
		}
		return ""
	}
	return p.bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(name, decor.WC{W: 13, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 6}), decor.Any(note)))
}
