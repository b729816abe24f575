package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unsafe"
)

// Bounds of what a client takes from a server, which may be another program than it says. Memory is an
// estimate: a few bytes of JSON may become a large struct.
const (
	answerMemory = 32 << 20  // bytes of memory for one answer
	listMemory   = 48 << 20  // for all pages of a list: some 20,000 machines
	bootMemory   = 4 << 10   // more for each boot of those that an operator asks for
	allMemory    = 512 << 20 // for all boots
	maxAnswer    = 12 << 20  // bytes of one answer in JSON
	maxElement   = 4 << 20   // bytes of one element of a list
	maxNesting   = 64        // of objects and arrays

	costObject  = 128 // bytes of memory for an object in JSON
	costElement = 160 // likewise for an element of an array
)

var (
	errAnswerLarge = errors.New("it is larger than any answer of ingot; ask for less, or see which program answers there")
	errAnswerDeep  = fmt.Errorf("it nests more than %d levels deep; see which program answers there", maxNesting)
)

// meter reads JSON and fails when what was read needs too much memory, before it is decoded.
type meter struct {
	r       io.Reader
	memory  *int64 // that is left
	most    int64  // bytes of one value
	value   int64  // bytes of the value that is read
	arrays  []bool // the open objects and arrays: whether it is an array
	text    bool   // in a string
	escaped bool   // after a backslash in it
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.value += int64(n)
	*m.memory -= int64(n)
	for _, c := range p[:n] {
		if fault := m.count(c); fault != nil {
			return 0, fault
		}
	}
	if m.value > m.most || *m.memory < 0 {
		return 0, errAnswerLarge
	}
	return n, err
}

// count looks at one byte.
func (m *meter) count(c byte) error {
	if m.text {
		switch {
		case m.escaped:
			m.escaped = false
		case c == '\\':
			m.escaped = true
		case c == '"':
			m.text = false
		}
		return nil
	}
	switch c {
	case '"':
		m.text = true
	case '{', '[':
		if len(m.arrays) >= maxNesting {
			return errAnswerDeep
		}
		m.arrays = append(m.arrays, c == '[')
		*m.memory -= costObject
	case '}', ']':
		m.arrays = m.arrays[:max(0, len(m.arrays)-1)]
	case ',':
		if n := len(m.arrays); n > 0 && m.arrays[n-1] {
			*m.memory -= costElement
		}
	}
	return nil
}

// decode reads an answer in JSON that is one value.
func decode(body io.Reader, into any) error {
	memory := int64(answerMemory)
	if err := json.NewDecoder(&meter{r: body, memory: &memory, most: maxAnswer}).Decode(into); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	return nil
}

// decodeList reads an answer that is an array in JSON, element by element, and adds it to a list. memory is
// what the list may still take.
func decodeList[T any](body io.Reader, list []T, memory *int64) ([]T, error) {
	m := &meter{r: body, memory: memory, most: maxElement}
	d := json.NewDecoder(m)
	fault := func(err error) error { return fmt.Errorf("reading a list from the server: %w", err) }
	switch start, err := d.Token(); {
	case err != nil:
		return nil, fault(err)
	case start == nil: // null
		return list, nil
	case start != json.Delim('['):
		return nil, fault(fmt.Errorf("it begins with %q", fmt.Sprint(start)))
	}
	for d.More() {
		m.value = 0
		var one T
		if *memory -= 2 * int64(unsafe.Sizeof(one)); *memory < 0 { // a slice that grows is copied
			return nil, fault(errAnswerLarge)
		}
		if err := d.Decode(&one); err != nil {
			return nil, fault(err)
		}
		list = append(list, one)
	}
	if _, err := d.Token(); err != nil {
		return nil, fault(err)
	}
	return list, nil
}
