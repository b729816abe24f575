package view

import (
	"net/netip"
	"reflect"
	"time"
)

// sizeAtMost returns a number that is not less than the size of a value's record in JSON, without
// encoding it.
func sizeAtMost(v reflect.Value) (n int) {
	const (
		worst = 6  // bytes of a character
		small = 64 // of a number, a time or an address, with the name of its field
	)
	switch v.Kind() {
	case reflect.String:
		return small + worst*v.Len()
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return small
		}
		return small + sizeAtMost(v.Elem())
	case reflect.Struct:
		if t := v.Type(); t == reflect.TypeFor[time.Time]() || t == reflect.TypeFor[netip.Addr]() {
			return small
		}
		for i := range v.NumField() {
			n += sizeAtMost(v.Field(i))
		}
		return small + n
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return small + 2*v.Len()
		}
		for i := range v.Len() {
			n += sizeAtMost(v.Index(i))
		}
		return small + n
	case reflect.Map:
		for k, e := range v.Seq2() {
			n += sizeAtMost(k) + sizeAtMost(e)
		}
		return small + n
	}
	return small
}
