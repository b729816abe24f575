package ingot

// FailureCode says what kind of failure a machine reports, so that no program
// has to recognise it by its words. An Event without a code was sent by an image
// that was built before codes, or is of a failure that has none.
type FailureCode string
