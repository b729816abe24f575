// Package chart computes the pictures of the dashboard: where rectangles, lines and dots are. Templates of
// package web draw them as SVG, with sizes in per cent, so that they fit any width without script.
package chart
