// Package ingot is the dictionary that every room of the house shares: the
// digests, names, tickets, reports and image manifests that builder, boot
// server and machine say to one another. It performs no I/O and imports only
// the standard library, so that the smallest program of the project (the
// machine's ingot-init) can afford it.
//
// The nouns are those of docs/ARCHITECTURE.md: Profile, Plan, Tree, Image,
// Store, Machine, Assignment, Boot, Ticket, Volume, Grant, Report, Fleet.
package ingot
