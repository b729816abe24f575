// Package ingot defines the types that builder, boot server and machine
// exchange: digests, names, tickets, events, failure codes, reports and image
// manifests. It performs no I/O and imports only the standard library, so that
// the smallest program of the project, the machine's ingot-init, can use it.
//
// Left out on purpose: whatever only one of the three needs, and all behaviour
// but parsing and formatting.
package ingot
